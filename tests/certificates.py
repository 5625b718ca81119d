"""Certificates for the tests' servers, made by the openssl command when a test runs: none is in the repository."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

# `openssl ca`, since it can write any time into a certificate, in every release. Python 3.13 wants the key identifiers.
SETTINGS = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[ca]
default_ca = authority
[authority]
database = {folder}/index
new_certs_dir = {folder}
serial = {folder}/serial
rand_serial = yes
default_md = sha256
policy = policy
unique_subject = no
[policy]
commonName = supplied
[authority_extensions]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server_extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = {alternative}
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""
VALID, EXPIRED, FUTURE = ("20250101", "20900101"), ("20240101", "20240201"), ("20880101", "20900101")


def is_installed():
    return shutil.which("openssl") is not None


@dataclass
class Certificate:
    """A certificate and its key, as paths of PEM files."""

    path: Path
    key: Path

    def server_context(self):
        """Return a context for a server that shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context


def make_certificate(folder, name, issuer=None, *, kind="server", period=VALID, alternative=None):
    """Make a certificate for a host name. issuer: the Certificate that signs it; None if it signs itself.

    kind: "server" or "authority". period: two days. alternative: its subjectAltName, DNS:<name> by default.
    """
    folder = Path(folder, f"{kind}-{name}-{period[1]}-{'signed' if issuer else 'self-signed'}")
    folder.mkdir(parents=True)
    (folder / "index").touch()
    settings = folder / "settings"
    settings.write_text(SETTINGS.format(name=name, folder=folder, alternative=alternative or f"DNS:{name}"))
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    signer = issuer or made

    def openssl(*arguments):
        command = ["openssl", *map(str, arguments), "-config", str(settings)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", made.key)
    openssl("req", "-new", *key, "-out", folder / "request.pem")
    by = ("-cert", signer.path, "-keyfile", signer.key) if issuer else ("-selfsign", "-keyfile", made.key)
    dates = ("-startdate", f"{period[0]}000000Z", "-enddate", f"{period[1]}000000Z")
    files = ("-in", folder / "request.pem", "-out", made.path, "-notext", "-batch")
    openssl("ca", *by, *dates, *files, "-extensions", f"{kind}_extensions")
    return made
