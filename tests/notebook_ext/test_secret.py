import pickle
from pathlib import Path

import pytest

from kernel_worker.errors import InvalidError, NotFoundError, SerializationError
from notebook_ext.options import Options, parse
from notebook_ext.secret import Secret

VALUE = "hunter2"


def test_where_secrets_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Secret.from_dict({"A": VALUE, "B": None}).values == {"A": VALUE}
    assert Secret.from_dict().values == {}
    monkeypatch.setenv("A_KEY", VALUE)
    assert Secret.from_local_environ(["A_KEY"]).values == {"A_KEY": VALUE}
    (tmp_path / ".env").write_text(
        "# a comment\nA=1\n export B = 'two words' # said\n\nC=\"x=y\"\nD=z # said\nE='open\nF=\n"
    )
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    expected = {"A": "1", "B": "two words", "C": "x=y", "D": "z", "E": "'open", "F": ""}
    for found in (
        Secret.from_dotenv(),
        Secret.from_dotenv(tmp_path / ".env"),
        Secret.from_dotenv(str(tmp_path)),
    ):
        assert found.values == expected
    with pytest.raises(NotFoundError, match=r"no nothing\.env in .* or above it"):
        Secret.from_dotenv(filename="nothing.env")


def test_a_value_in_quotes_may_have_several_lines_and_escapes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(
        b'\xef\xbb\xbfKEY="-----BEGIN-----\nabc=\n# no comment\n-----END-----" # a comment\n'
        b'JSON="{\\"a\\": \\"b\\\\c\\\\\\\\d\\n\\"}"\nRAW=\'a\\n\nb\'\nLAST=1\n'
    )
    assert Secret.from_dotenv(tmp_path).values == {
        "KEY": "-----BEGIN-----\nabc=\n# no comment\n-----END-----",
        "JSON": '{"a": "b\\c\\\\d\n"}',
        "RAW": "a\\n\nb",
        "LAST": "1",
    }
    (tmp_path / ".env").write_bytes(VALUE.encode() + b"=\xff\n")
    with pytest.raises(InvalidError, match=r"\.env: allowed is text in UTF-8; byte 8 is") as caught:
        Secret.from_dotenv(tmp_path)
    assert VALUE not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"A": 3}, {"A=B": VALUE}, {"": VALUE}, {"A": f"{VALUE}\0"}, {3: VALUE}, [VALUE], VALUE],
)
def test_messages_have_names_and_no_values(given: object) -> None:
    for option, make in (
        ("env_dict", lambda: Secret.from_dict(given)),  # type: ignore[arg-type]
        ("env", lambda: parse({"env": given})),
    ):
        with pytest.raises(InvalidError, match=f"{option}=.*allowed is a dict of ") as caught:
            make()
        assert VALUE not in str(caught.value)


def test_what_is_no_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="secrets=<dict>: allowed is a list of Secret"):
        parse({"secrets": {"A": VALUE}})
    with pytest.raises(InvalidError, match="env_keys='A': allowed is a list of names"):
        Secret.from_local_environ("A")
    with pytest.raises(InvalidError, match="NOT_SET_AT_ALL is not set here; allowed are names"):
        Secret.from_local_environ(["NOT_SET_AT_ALL"])
    (tmp_path / ".env").write_text(f"A=1\n{VALUE}\n")
    with pytest.raises(InvalidError, match=r"\.env, line 2: allowed is NAME=value") as caught:
        Secret.from_dotenv(tmp_path)
    assert VALUE not in str(caught.value)


def test_values_are_shown_nowhere_and_do_not_travel() -> None:
    secret = Secret.from_dict({"TOKEN": VALUE, "OTHER": VALUE})
    options = parse({"secrets": [secret], "env": {"MODE": VALUE}})
    for shown in (repr(secret), str(secret), repr(options), repr([secret])):
        assert VALUE not in shown
    assert repr(secret) == "<Secret: TOKEN, OTHER>"
    assert repr(Secret.from_dict()) == "<Secret: empty>"
    with pytest.raises(SerializationError, match=r"give it as secrets=\[\.\.\.\]"):
        pickle.dumps(secret)


def test_env_is_stronger_than_secrets_and_later_ones_win() -> None:
    secrets = [Secret.from_dict({"A": "1", "B": "1"}), Secret.from_dict({"B": "2", "C": "2"})]
    options = parse({"secrets": secrets, "env": {"C": "3"}})
    assert options.variables == (("A", "1"), ("B", "2"), ("C", "3"))
    assert options.changes_pool() != Options().changes_pool()
    assert parse({"secrets": None, "env": None}) == Options()
