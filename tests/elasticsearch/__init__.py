"""A real Elasticsearch for the tests, made of its own packages from Maven Central, and a bad line to it.

It has the core of the server and nothing else: no security, no TLS, no analysis modules, no GET /.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIB = HERE / "lib"  # what Maven brought, kept for the next time
VERSION = re.search("<version>([0-9.]+)</version>\\s*</dependency>", (HERE / "pom.xml").read_text())[1]
OLDEST_JAVA = 21
PLUGIN = f"""name=transport-netty4
description=HTTP
version={VERSION}
elasticsearch.version={VERSION}
java.version={OLDEST_JAVA}
classname=org.elasticsearch.transport.netty4.Netty4Plugin
"""


class NotInstalled(Exception):
    """Something is not installed; its words say what to do."""


@cache
def java() -> str:
    """Return a Java that is new enough. Raises NotInstalled where there is none."""
    homes = [os.environ.get("JAVA_HOME"), *sorted(map(str, Path("/usr/lib/jvm").glob("*")))[::-1]]
    found = [shutil.which("java"), *(f"{home}/bin/java" for home in homes if home)]
    for program in filter(None, found):
        if Path(program).exists():
            said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
            version = re.search(r'version "(\d+)', said)
            if version and int(version[1]) >= OLDEST_JAVA:
                return program
    raise NotInstalled(
        f"there is no Java {OLDEST_JAVA} or newer: install one (JAVA_HOME), or set ELASTICSEARCH_TEST_URL"
    )


def fetch():
    """Have Maven bring the server, once."""
    if LIB.is_dir():
        return
    maven = shutil.which("mvn")
    if not maven:
        raise NotInstalled("Maven is not installed: apt-get install maven, or set ELASTICSEARCH_TEST_URL")
    unfinished = Path(tempfile.mkdtemp(prefix="lib-", dir=HERE))
    brought = subprocess.run(
        [maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={unfinished}"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if brought.returncode:
        shutil.rmtree(unfinished)
        raise NotInstalled(f"Maven could not bring Elasticsearch: {brought.stdout.strip().splitlines()[:1]}")
    try:
        unfinished.rename(LIB)
    except OSError:  # another was sooner
        shutil.rmtree(unfinished)


class Server:
    """One node of Elasticsearch.

    folder: where its indexes are kept, and found again; by default a temporary one.
    """

    def __init__(self, port: int, folder: Path | None = None, heap: str = "512m"):
        fetch()
        self.port, self.heap = port, heap
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder or Path(tempfile.mkdtemp(prefix="nox-es-"))
        module = self.folder / "modules/transport-netty4"
        if not module.is_dir():
            module.mkdir(parents=True)
            for jar in (*LIB.glob("netty-*.jar"), *LIB.glob("transport-netty4-*.jar")):
                (module / jar.name).symlink_to(jar)
            (module / "plugin-descriptor.properties").write_text(PLUGIN)
            for name in ("config", "plugins"):
                (self.folder / name).mkdir()
            shutil.copyfile(HERE / "log4j2.properties", self.folder / "config/log4j2.properties")
        others = [str(jar) for jar in sorted(LIB.glob("*.jar")) if "netty" not in jar.name]
        self.command = [
            *(java(), f"-Xms{heap}", f"-Xmx{heap}", "-Des.nativelibs.path=none"),
            *("--enable-native-access=ALL-UNNAMED", "--add-modules", "jdk.incubator.vector"),
            *("-cp", ":".join(others), str(HERE / "Server.java"), str(self.folder), str(port)),
        ]
        self.process = None
        self.start()

    def start(self):
        """Start it, and wait until it answers."""
        if self.process is None or self.process.poll() is not None:
            with open(self.folder / "log", "a") as log:
                self.process = subprocess.Popen(
                    self.command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        end = time.monotonic() + 90
        while not self.answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < end, "Elasticsearch does not start"
            time.sleep(0.1)

    def answers(self) -> bool:
        """Tell whether it has found its indexes and answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s", timeout=3):
                return True
        except OSError:
            return False

    def send(self, number: int):
        """Send it a signal."""
        os.killpg(self.process.pid, number)

    def kill(self):
        """End it at once, as a power cut does."""
        self.send(signal.SIGKILL)
        self.process.wait()

    def freeze(self):
        """Have it take connections and say nothing."""
        self.send(signal.SIGSTOP)

    def thaw(self):
        """Let it go on."""
        self.send(signal.SIGCONT)

    def revive(self):
        """Have it answer again, whatever was done to it."""
        if self.process.poll() is None:
            self.thaw()
        else:
            self.start()

    def close(self):
        """End it, and forget its indexes."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
