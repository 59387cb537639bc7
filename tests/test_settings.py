"""Settings: precedence, errors that name the key, and a table that everything agrees with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from connector.errors import SettingsError
from connector.sections import Settings
from connector.settings import load_settings, settings_table


def load(text: str = "", tmp_path: Path | None = None, **options: Any) -> Settings:
    assert tmp_path is not None
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load_settings(file, options.get("options"), options.get("environment", {}))


def test_option_over_environment_over_file_over_default(tmp_path: Path) -> None:
    text = "rerank:\n  window: 30\n  readout: icr\n  fusion: 0.5\n"
    environment = {"RH_RERANK__WINDOW": "40", "RH_RERANK__READOUT": "share", "OTHER": "x"}
    found = load(text, tmp_path, environment=environment, options={"rerank.window": "50", "rerank.readout": None})
    assert (found.rerank.window, found.rerank.readout, found.rerank.fusion) == (50, "share", 0.5)
    assert found.serve.port == 8080


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rerank: {fusio: 1}", r"rerank\.fusio is not a setting; the nearest is rerank\.fusion"),
        ("cache: {not_applicable_mb: 0}", r"cache\.not_applicable_mb is not a setting: it was removed.*leave it out"),
        ("rerankk: {fusion: 1}", "rerankk is not a setting; the nearest is rerank"),
        ("rerank: {window: many}", r"rerank\.window = 'many': .*integer"),
        ("rerank: {window: 0}", r"rerank\.window = 0: .*greater"),
        ("rerank: {fusion: mean}", "auto, rrf, none"),
        ("rerank: {fusion: -1}", "auto, rrf, none"),
        ("engine: {kind: solr}", r"engine\.kind = 'solr': .*opensearch"),
        ("engine: {fields: ['title^-1']}", r"title\^-1"),
        ("- a", "sections"),
        ("a: [", "not YAML"),
        ("rerank: 5", "rerank"),
        ("backbone: {layout: block}", r"backbone\.layout = 'block': it is gone.*set backbone\.layout to solo"),
        ("cache: {dtype: int2}", r"cache\.dtype = 'int2': .*set cache\.dtype to int4"),
    ],
)
def test_errors_name_key_value_and_fix(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_environment_variables_and_options_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"RH_RERANK__WINDWO.*rerank\.window"):
        load("", tmp_path, environment={"RH_RERANK__WINDWO": "1"})
    with pytest.raises(SettingsError, match=r"fusion.*rerank\.fusion"):
        load("", tmp_path, options={"fusion": 1})


def test_a_missing_file_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load_settings(tmp_path / "nowhere.yaml", environment={})
    assert load_settings(environment={"RH_CONFIG": "/dev/null"}).rerank.window == 20


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    found = load("serve: {api_keys: [hunter2]}\nengine: {password: hunter2}", tmp_path)
    assert "hunter2" not in repr(found) and "hunter2" not in found.model_dump_json()
    with pytest.raises(SettingsError) as caught:
        load("engine: {password: [hunter2]}", tmp_path)
    assert "hunter2" not in str(caught.value)


def test_null_is_a_word_in_options_and_variables_too() -> None:
    given = {"router.embedder": "null", "cascade.model": ""}
    found = load_settings("/dev/null", given, environment={"RH_ROUTER__BUNDLE": "null", "RH_BACKBONE__MODEL": "null"})
    assert (found.router.embedder, found.cascade.model, found.router.bundle) == (None, None, None)
    # A setting that is never null takes the word as it stands.
    assert found.backbone.model == "null"


def test_lists_come_as_comma_separated_text(tmp_path: Path) -> None:
    environment = {"RH_ENGINE__FIELDS": "title^2, text", "RH_SERVE__API_KEYS": "a,b", "RH_ENGINE__URL": ""}
    found = load("", tmp_path, environment=environment)
    assert found.engine.field_weights() == {"title": 2.0, "text": 1.0}
    assert [key.get_secret_value() for key in found.serve.api_keys] == ["a", "b"]
    assert found.engine.url is None


def test_empty_sections_are_defaults(tmp_path: Path) -> None:
    assert load("engine:\nrerank:\n", tmp_path).engine == load("", tmp_path).engine


def test_the_committed_file_holds_every_key_at_its_default(repository: Path, tmp_path: Path) -> None:
    text = (repository / "config.yaml").read_text()
    written = {
        f"{section}.{key}": value for section, keys in yaml.safe_load(text).items() for key, value in keys.items()
    }
    assert list(written) == [setting.key for setting in settings_table()]
    found, default = load(text, tmp_path), load_settings("/dev/null", environment={})
    assert found.model_copy(update={"cache": default.cache}) == default
    assert found.cache.path == Path("~/.cache/rh-connector").expanduser()
    flat = " ".join(line.strip().lstrip("# ") for line in text.splitlines())
    for setting in settings_table():
        assert setting.help and setting.help in flat, f"{setting.key} is not described as in the table"


def test_an_empty_host_is_refused() -> None:
    """Sockets take it for every address."""
    with pytest.raises(SettingsError, match=r"serve\.host = '': "):
        load_settings("/dev/null", {"serve.host": ""}, environment={})


def test_all_heads_are_read_in_the_layout_that_reads_them(tmp_path: Path) -> None:
    assert load("router: {mode: all}", tmp_path).backbone.layout == "late"
    assert load("router: {mode: static}", tmp_path).backbone.layout == "solo"
    for layout in ("solo", "late"):
        assert load(f"router: {{mode: all}}\nbackbone: {{layout: {layout}}}", tmp_path).backbone.layout == layout


def test_a_null_beside_the_url_takes_no_user_away(tmp_path: Path) -> None:
    """config.yaml, as it is shipped, names every setting."""
    path = tmp_path / "config.yaml"
    path.write_text("engine: {kind: opensearch, username: null, password: null, url: 'https://me:word@h:1'}")
    engine = load_settings(path, environment={}).engine
    assert (engine.url, engine.username) == ("https://h:1", "me")
    assert engine.password is not None and engine.password.get_secret_value() == "word"
