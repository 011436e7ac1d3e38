from pathlib import Path

import pytest

from tools.lint_lua import FOLDERS, lint

HEAD = "-- Do it. Arguments: id. Returns nothing.\n-- include: base\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("local id = args.id\nredis.call('DEL', job_key(id))\n", []),
        ("redis.call('DEL', job_kye(args.id))\n", ["it.lua: job_kye is not defined"]),
        ("local id = args.id\n", ["it.lua: id is not used"]),
        ("for _, id in ipairs(args.ids) do redis.call('DEL', id) end\nreturn id\n", ["it.lua: id is not defined"]),
        (
            "do local late = now end\nreturn late\n",
            ["it.lua: late is not defined", "it.lua: late is not used"],
        ),
    ],
)
def test_a_script_uses_only_defined_names_and_leaves_no_local_unused(text, found, tmp_path):
    (tmp_path / "it.lua").write_text(HEAD + text)
    assert lint(tmp_path / "it.lua", tmp_path) == found


def test_a_script_states_its_arguments_and_answer(tmp_path):
    (tmp_path / "it.lua").write_text("-- Do it.\n-- include: base\nreturn now\n")
    assert len(lint(tmp_path / "it.lua", tmp_path)) == 2


@pytest.mark.enable_socket
def test_redis_loads_every_script(redis_client):
    from svd_service.ledger.constants import Constants
    from svd_service.ledger.scripts import source

    for folder in FOLDERS:
        for path in sorted(Path(folder).glob("*.lua")):
            assert redis_client.script_load(source(path.stem, folder, Constants()))
