"""Elasticsearch, server and HTTP only: no security, ``_inference``, painless or English analyzer.

Only the HTTP transport is published as a module. 8.17.0 runs the server's own main class; 9.x the small
NodeMain.java beside this file, because the Java agent that its main class wants is not published.
"""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.nodes.maven import installed
from tests.nodes.process import COMMON_FLAGS, Starting, common_settings, find_java, launch, prepare
from tests.nodes.release import NodeError, Release

__all__ = ["RELEASES", "install", "start"]

RELEASES = {
    release.version: release
    for release in (
        Release("elasticsearch", "8.17.0", 17, 23, "it needs the security manager, which Java 24 removed"),
        # NodeMain.java is run from source, which takes a JDK.
        Release("elasticsearch", "9.1.0", 21, 99, "its classes are compiled for Java 21", needs_compiler=True),
        # The last whose HTTP transport is published.
        Release("elasticsearch", "9.2.0", 21, 99, "its classes are compiled for Java 21", needs_compiler=True),
    )
}
_PARTS_LIST = Path(__file__).with_name("elasticsearch-pom.xml")
_LAUNCHER = Path(__file__).with_name("NodeMain.java")
_MAIN_CLASS = "org.elasticsearch.bootstrap.Elasticsearch"
_MODULE = "transport-netty4"
_MODULE_CLASS = "org.elasticsearch.transport.netty4.Netty4Plugin"
_MODULE_JARS = (_MODULE, "netty-", "elasticsearch-ssl-config")
# What netty needs under the security manager; the distribution's own file is not published.
_POLICY = """\
grant codeBase "${codebase.netty-common}" {
  permission java.io.FilePermission "/proc/sys/net/core/somaxconn", "read";
  permission java.net.SocketPermission "*", "accept,connect";
  permission java.util.PropertyPermission "*", "read,write";
  permission java.lang.RuntimePermission "setContextClassLoader";
};
grant codeBase "${codebase.netty-transport}" {
  permission java.net.SocketPermission "*", "accept,connect";
};
"""


def install(home: Path, version: str) -> Path:
    """See ``maven.installed``."""
    return installed(home, RELEASES[version], _PARTS_LIST, _lay_out)


def start(
    home: Path, version: str, data: Path, *, port: int = 0, settings: Mapping[str, str] | None = None
) -> Starting:
    """Start a node on its installed home; ``data`` takes all that it writes.

    Raises:
        NodeError: no fitting Java, or the user that it must run as cannot reach its files.
    """
    release = RELEASES[version]
    java = find_java(release)
    home, data = home.resolve(), data.resolve()
    node_settings = {**common_settings(data, port), "path.home": str(home), **(settings or {})}
    prepare(data, node_settings, "elasticsearch.yml")
    flags = [
        *COMMON_FLAGS,
        f"-Djava.io.tmpdir={data / 'tmp'}",
        f"-Djna.tmpdir={data / 'tmp'}",
        f"-XX:ErrorFile={data / 'logs' / 'hs_err.log'}",
        "-Des.distribution.type=tar",
        f"-Des.path.home={home}",
    ]
    if release.major == 8:
        main = ["-Djava.security.manager=allow", "--add-modules=jdk.net,ALL-MODULE-PATH"]
        main += ["--module-path", str(home / "lib"), "-m", f"org.elasticsearch.server/{_MAIN_CLASS}"]
    else:
        main = ["--add-modules=jdk.incubator.vector", "--enable-native-access=ALL-UNNAMED"]
        main += ["-cp", str(home / "lib" / "*"), str(home / _LAUNCHER.name), str(data / "config")]
    stdin = _server_args(data, node_settings) if release.major == 8 else b""
    return launch([str(java), *flags, *main], release, home, data, stdin=stdin)


def _lay_out(home: Path, release: Release, parts: list[Path]) -> None:
    module = home / "modules" / _MODULE
    for path in (*(home / n for n in ("bin", "config", "lib", "plugins")), module):
        path.mkdir(parents=True)
    for part in parts:
        target = module if part.name.startswith(_MODULE_JARS) else home / "lib"
        shutil.copyfile(part, target / part.name)
    descriptor = {
        "name": _MODULE,
        "description": f"Elasticsearch module {_MODULE}",
        "version": release.version,
        "elasticsearch.version": release.version,
        "java.version": str(release.java_min),
        "classname": _MODULE_CLASS,
        "extended.plugins": "",
        "has.native.controller": "false",
    }
    lines = "".join(f"{key}={value}\n" for key, value in descriptor.items())
    (module / "plugin-descriptor.properties").write_text(lines)
    if release.major == 8:
        (module / "plugin-security.policy").write_text(_POLICY)
        console = home / "lib" / "tools" / "ansi-console"
        console.mkdir(parents=True)
        with zipfile.ZipFile(console / "no-console.jar", "w") as jar:
            jar.writestr("org/elasticsearch/io/ansi/AnsiConsoleLoader.class", _no_console())
    else:
        shutil.copyfile(_LAUNCHER, home / _LAUNCHER.name)
    _check(home, release)


def _no_console() -> bytes:
    """``class AnsiConsoleLoader implements Supplier { public Object get() { return null; } }``

    The 8.x main class loads one by this name from a jar that is not published; null is
    what it answers where there is no terminal.
    """

    def u2(*numbers: int) -> bytes:
        return struct.pack(f">{len(numbers)}H", *numbers)

    def utf8(text: str) -> bytes:
        return b"\x01" + u2(len(text)) + text.encode()

    def class_of(index: int) -> bytes:
        return b"\x07" + u2(index)

    def method(name: int, signature: int, code: bytes) -> bytes:
        body = u2(1, 1) + struct.pack(">I", len(code)) + code + u2(0, 0)  # stack 1, locals 1
        return u2(1, name, signature, 1, 11) + struct.pack(">I", len(body)) + body

    pool = [  # numbered from 1
        utf8("org/elasticsearch/io/ansi/AnsiConsoleLoader"), class_of(1),
        utf8("java/lang/Object"), class_of(3),
        utf8("java/util/function/Supplier"), class_of(5),
        utf8("<init>"), utf8("()V"), b"\x0c" + u2(7, 8), b"\x0a" + u2(4, 9),  # 10: Object()
        utf8("Code"), utf8("get"), utf8("()Ljava/lang/Object;"),
    ]  # fmt: skip
    constructor = method(7, 8, b"\x2a\xb7" + u2(10) + b"\xb1")  # aload_0, invokespecial, return
    get = method(12, 13, b"\x01\xb0")  # aconst_null, areturn
    head = b"\xca\xfe\xba\xbe" + u2(0, 52, len(pool) + 1) + b"".join(pool)
    return head + u2(0x21, 2, 4, 1, 6, 0, 2) + constructor + get + u2(0)


def _check(home: Path, release: Release) -> None:
    """Fail now, with a name, rather than later in a Java stack trace."""
    if not (home / "lib" / f"elasticsearch-{release.version}.jar").is_file():
        raise NodeError(f"the server jar of {release.version} is missing from what Maven resolved")
    module = home / "modules" / _MODULE / f"{_MODULE}-{release.version}.jar"
    classfile = _MODULE_CLASS.replace(".", "/") + ".class"
    if not module.is_file() or classfile not in zipfile.ZipFile(module).namelist():
        raise NodeError(f"{_MODULE} has no class {_MODULE_CLASS}")


def _server_args(data: Path, settings: Mapping[str, str]) -> bytes:
    """What the 8.x launcher script writes to the server's standard input.

    The server does not read elasticsearch.yml itself. "daemonize" keeps it running when
    its input ends.
    """

    def vint(number: int) -> bytes:
        out = b""
        while number > 127:
            out += bytes([number & 127 | 128])
            number >>= 7
        return out + bytes([number])

    def string(text: str) -> bytes:
        if not text.isascii():
            raise NodeError(f"{text!r}: only ASCII characters in paths and settings of 8.x, please")
        return vint(len(text)) + text.encode()

    yes, no = b"\x01", b"\x00"
    empty_keystore = (4).to_bytes(4, "big") + no + no + vint(0) + no
    return b"".join(
        (
            yes, yes, no,  # daemonize, quiet, no pid file
            string("org.elasticsearch.common.settings.KeyStoreWrapper"), empty_keystore,
            vint(len(settings)),
            *(string(key) + b"\x00" + string(value) for key, value in settings.items()),
            string(str(data / "config")), string(str(data / "logs")),
        )
    )  # fmt: skip
