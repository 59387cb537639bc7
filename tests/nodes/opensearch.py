"""OpenSearch with ML Commons and Neural Search.

The descriptors and security policies of the server's modules are not published; those here are written for this
node.
Left out: the 290 MB ONNX Runtime of ML Commons (models inside the node). Not published: k-NN's native libraries, so
the
first document in a faiss index ends the node.
"""

from __future__ import annotations

import fnmatch
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.nodes.maven import installed, properties
from tests.nodes.process import COMMON_FLAGS, Starting, common_settings, find_java, launch, prepare
from tests.nodes.release import NodeError, Release

__all__ = ["RELEASES", "install", "start"]

RELEASES = {
    release.version: release
    for release in (
        Release("opensearch", "2.19.1", 11, 23, "it needs the security manager, which Java 24 removed"),
        Release("opensearch", "3.6.0", 21, 99, "its classes are compiled for Java 21"),
    )
}
_PARTS_LIST = Path(__file__).with_name("opensearch-pom.xml")
_LEFT_OUT = ("onnxruntime_gpu-*.jar",)


@dataclass(frozen=True)
class _Module:
    """A server module: what the distribution's build writes beside its jars."""

    name: str
    classname: dict[int, str]  # by major version; a missing one: not part of it
    artifacts: frozenset[str]  # artifact ids that go into modules/NAME/; may end in *
    extends: str = ""
    permissions: tuple[str, ...] = ()


def _module(
    name: str,
    artifacts: str,
    v2: str | None = None,
    v3: str | None = None,
    extends: str = "",
    permissions: Sequence[str] = (),
) -> _Module:
    classname = {major: c for major, c in ((2, v2), (3, v3)) if c}
    return _Module(name, classname, frozenset(artifacts.split()), extends, tuple(permissions))


_MODULES = (
    _module(
        "transport-netty4",
        "transport-netty4-client opensearch-netty4 netty-*",
        "org.opensearch.transport.Netty4Plugin",
        "org.opensearch.transport.Netty4ModulePlugin",
        permissions=(
            'java.net.SocketPermission "*", "accept,connect"',
            'java.io.FilePermission "/proc/sys/net/core/somaxconn", "read"',
            'java.lang.RuntimePermission "getClassLoader"',
            'java.lang.RuntimePermission "getenv.*"',
            'java.lang.RuntimePermission "setContextClassLoader"',
            'java.util.PropertyPermission "*", "read,write"',
        ),
    ),
    _module(
        "analysis-common",
        "analysis-common",
        "org.opensearch.analysis.common.CommonAnalysisPlugin",
        "org.opensearch.analysis.common.CommonAnalysisModulePlugin",
        extends="lang-painless",
        permissions=('java.lang.RuntimePermission "getClassLoader"',),
    ),
    _module(
        "lang-painless",
        "lang-painless opensearch-scripting-painless-spi antlr4-runtime asm asm-*",
        "org.opensearch.painless.PainlessPlugin",
        "org.opensearch.painless.PainlessModulePlugin",
        permissions=(
            'java.lang.RuntimePermission "createClassLoader"',
            'java.lang.RuntimePermission "getClassLoader"',
        ),
    ),
    _module(
        "lang-mustache",
        "lang-mustache-client compiler",
        "org.opensearch.script.mustache.MustachePlugin",
        "org.opensearch.script.mustache.MustacheModulePlugin",
        permissions=(
            'java.lang.RuntimePermission "accessDeclaredMembers"',
            'java.lang.reflect.ReflectPermission "suppressAccessChecks"',
        ),
    ),
    _module(
        "mapper-extras",
        "mapper-extras-client",
        "org.opensearch.index.mapper.MapperExtrasPlugin",
        "org.opensearch.index.mapper.MapperExtrasModulePlugin",
    ),
    _module(
        "parent-join",
        "parent-join-client",
        "org.opensearch.join.ParentJoinPlugin",
        "org.opensearch.join.ParentJoinModulePlugin",
    ),
    _module(
        "reindex",
        "reindex-client opensearch-rest-client opensearch-ssl-config "
        "httpclient httpcore httpasyncclient httpcore-nio httpclient5 httpcore5 httpcore5-h2 "
        "httpcore5-reactive commons-codec commons-logging slf4j-api",
        "org.opensearch.index.reindex.ReindexPlugin",
        "org.opensearch.index.reindex.ReindexModulePlugin",
        permissions=('java.net.SocketPermission "*", "connect"',),
    ),
    _module(
        "ingest-common",
        "ingest-common opensearch-grok opensearch-dissect joni jcodings",
        "org.opensearch.ingest.common.IngestCommonPlugin",
        "org.opensearch.ingest.common.IngestCommonModulePlugin",
        extends="lang-painless",
        permissions=('java.lang.RuntimePermission "getClassLoader"',),
    ),
    _module(
        "search-pipeline-common",
        "search-pipeline-common",
        v3="org.opensearch.search.pipeline.common.SearchPipelineCommonModulePlugin",
    ),
    _module(
        "transport-grpc",
        "transport-grpc transport-grpc-spi grpc-* perfmark-api protobufs guava failureaccess",
        v3="org.opensearch.transport.grpc.GrpcPlugin",
    ),
)
_AGENT = ("opensearch-agent", "opensearch-agent-bootstrap", "byte-buddy")


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
    prepare(data, {**common_settings(data, port), **(settings or {})}, "opensearch.yml")
    flags = [
        *COMMON_FLAGS,
        f"-Djava.io.tmpdir={data / 'tmp'}",
        f"-Djna.tmpdir={data / 'tmp'}",
        f"-XX:ErrorFile={data / 'logs' / 'hs_err.log'}",
        f"-Dopensearch.path.home={home}",
        f"-Dopensearch.path.conf={data / 'config'}",
        "-Dopensearch.distribution.type=tar",
        "-Dopensearch.bundled_jdk=false",
    ]
    if release.major == 2:
        flags.append("-Djava.security.manager=allow")
    else:
        agent = home / "agent" / f"opensearch-agent-{release.version}.jar"
        flags += [f"-javaagent:{agent}", "--add-modules=jdk.incubator.vector"]
        flags += ["--enable-native-access=ALL-UNNAMED", "-Dio.netty.tryReflectionSetAccessible=true"]
    command = [str(java), *flags, "-cp", str(home / "lib" / "*"), "org.opensearch.bootstrap.OpenSearch"]
    return launch(command, release, home, data)


def _lay_out(home: Path, release: Release, parts: list[Path]) -> None:
    modules = [m for m in _MODULES if release.major in m.classname]
    for name in ("bin", "config"):  # the server checks that they exist; nothing is in them
        (home / name).mkdir()
    for part in parts:
        artifact = part.parent.parent.name  # the repository's layout: .../ARTIFACT/VERSION/FILE
        if part.suffix == ".zip":
            _unpack_plugin(part, home / "plugins")
            continue
        if artifact in _AGENT:
            target = home / "agent"
        else:
            owners = [m.name for m in modules if any(fnmatch.fnmatch(artifact, a) for a in m.artifacts)]
            target = home / "modules" / owners[0] if owners else home / "lib"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(part, target / part.name)
    for module in modules:
        _describe(home / "modules" / module.name, module, release)
    _check(home, release)


def _unpack_plugin(archive: Path, plugins: Path) -> None:
    with zipfile.ZipFile(archive) as z:
        name = properties(z.read("plugin-descriptor.properties").decode())["name"]
        for info in z.infolist():
            if not any(fnmatch.fnmatch(info.filename, pattern) for pattern in _LEFT_OUT):
                z.extract(info, plugins / name)


def _describe(directory: Path, module: _Module, release: Release) -> None:
    """Write the descriptor and the policy, which are not in the published jar."""
    descriptor = {
        "name": module.name,
        "description": f"OpenSearch module {module.name}",
        "version": release.version,
        "opensearch.version": release.version,
        "java.version": str(release.java_min),
        "classname": module.classname[release.major],
        "extended.plugins": module.extends,
        "has.native.controller": "false",
    }
    lines = "".join(f"{key}={value}\n" for key, value in descriptor.items())
    (directory / "plugin-descriptor.properties").write_text(lines)
    if module.permissions:
        grants = "".join(f"  permission {p};\n" for p in module.permissions)
        (directory / "plugin-security.policy").write_text("grant {\n" + grants + "};\n")


def _contains(jar: Path, name: str) -> bool:
    with zipfile.ZipFile(jar) as z:
        return name in z.namelist()


def _check(home: Path, release: Release) -> None:
    """Fail now, with a name, rather than later in a Java stack trace."""
    if not list((home / "lib").glob(f"opensearch-{release.version}.jar")):
        raise NodeError(f"the server jar of {release.version} is missing from what Maven resolved")
    bundles = [*(home / "modules").iterdir(), *(home / "plugins").iterdir()]
    known = {b.name for b in bundles}
    for bundle in bundles:
        about = properties((bundle / "plugin-descriptor.properties").read_text())
        if about["opensearch.version"] != release.version:
            raise NodeError(f"{bundle.name} is for OpenSearch {about['opensearch.version']}")
        for needed in filter(None, about["extended.plugins"].split(",")):
            if needed not in known and not needed.endswith("optional=true"):
                raise NodeError(f"{bundle.name} extends {needed}, which is not in the parts list")
        classfile = about["classname"].replace(".", "/") + ".class"
        if not any(_contains(jar, classfile) for jar in sorted(bundle.glob("*.jar"))):
            raise NodeError(f"{bundle.name} has no class {about['classname']}")
