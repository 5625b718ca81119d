"""A real Elasticsearch for the tests, from its packages on Maven Central, and a proxy that injects faults.

It is the core of the server only: without security, TLS, analysis modules, and GET /.
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
LIB = HERE / "lib"  # downloaded by Maven, and kept
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
    """Something is not installed; the message says what to do."""


@cache
def java() -> str:
    """Return the path of a Java that is new enough. Raises NotInstalled."""
    homes = [os.environ.get("JAVA_HOME"), *sorted(map(str, Path("/usr/lib/jvm").glob("*")))[::-1]]
    found = [shutil.which("java"), *(f"{home}/bin/java" for home in homes if home)]
    for program in filter(None, found):
        if Path(program).exists():
            output = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
            version = re.search(r'version "(\d+)', output)
            if version and int(version[1]) >= OLDEST_JAVA:
                return program
    raise NotInstalled(
        f"there is no Java {OLDEST_JAVA} or newer: install one (JAVA_HOME), or set ELASTICSEARCH_TEST_URL"
    )


def download():
    """Download the server with Maven, unless that was done before. Raises NotInstalled."""
    if LIB.is_dir():
        return
    maven = shutil.which("mvn")
    if not maven:
        raise NotInstalled("Maven is not installed: apt-get install maven, or set ELASTICSEARCH_TEST_URL")
    unfinished = Path(tempfile.mkdtemp(prefix="lib-", dir=HERE))
    result = subprocess.run(
        [maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={unfinished}"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        shutil.rmtree(unfinished)
        raise NotInstalled(f"Maven could not download Elasticsearch: {result.stdout.strip().splitlines()[:1]}")
    try:
        unfinished.rename(LIB)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)


class Server:
    """One node of Elasticsearch.

    folder: contains its indexes, and may be reused; by default a temporary one. heap: as in Java's -Xmx.
    """

    def __init__(self, port: int, folder: Path | None = None, heap: str = "512m"):
        download()
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
        class_path = [str(jar) for jar in sorted(LIB.glob("*.jar")) if "netty" not in jar.name]
        self.command = [
            *(java(), f"-Xms{heap}", f"-Xmx{heap}", "-Des.nativelibs.path=none"),
            *("--enable-native-access=ALL-UNNAMED", "--add-modules", "jdk.incubator.vector"),
            *("-cp", ":".join(class_path), str(HERE / "Server.java"), str(self.folder), str(port)),
        ]
        self.process = None
        self.start()

    def start(self):
        """Start it if it does not run, and wait until it is ready."""
        if self.process is None or self.process.poll() is not None:
            with open(self.folder / "log", "a") as log:
                self.process = subprocess.Popen(
                    self.command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        deadline = time.monotonic() + 90
        while not self.is_ready():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "Elasticsearch does not start"
            time.sleep(0.1)

    def is_ready(self) -> bool:
        """Tell whether it has loaded its indexes and answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s", timeout=3):
                return True
        except OSError:
            return False

    def send_signal(self, number: int):
        """Send a signal to its processes."""
        os.killpg(self.process.pid, number)

    def kill(self):
        """Kill it, and wait until it has ended."""
        self.send_signal(signal.SIGKILL)
        self.process.wait()

    def freeze(self):
        """Suspend it: connections are accepted, but not answered."""
        self.send_signal(signal.SIGSTOP)

    def thaw(self):
        """Resume it after `freeze`."""
        self.send_signal(signal.SIGCONT)

    def revive(self):
        """Make it answer again after `freeze` or `kill`."""
        if self.process.poll() is None:
            self.thaw()
        else:
            self.start()

    def close(self):
        """Kill it, and delete its indexes."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
