"""Exit with 0 if NoxChat answers in this container, with 1 otherwise."""

import os
import sys
import urllib.request

try:
    url = f"http://127.0.0.1:{os.environ.get('PORT', '8000')}/healthz"
    urllib.request.urlopen(url, timeout=4)  # noqa: S310
except OSError as error:
    sys.exit(f"NoxChat does not answer: {error}")
