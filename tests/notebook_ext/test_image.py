from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

import notebook_ext as nb
from notebook_ext.exception import InvalidError, SerializationError

slim = nb.Image.debian_slim


def test_an_image_is_what_was_said_of_it() -> None:
    base = slim(f"{sys.version_info.major}.{sys.version_info.minor}")
    image = base.pip_install("a", ["b", "c"]).env({"X": "1"}).uv_pip_install("d", pre=True)
    assert repr(base) == "<Image: no packages>", "methods change nothing"
    assert repr(image) == "<Image: pip_install a b c, uv_pip_install d>"
    first, second = image.spec().steps
    assert (first.kind, first.arguments, first.variables) == ("pip", ("a", "b", "c"), ())
    assert (second.kind, second.arguments) == ("uv", ("--pre", "d"))
    assert second.variables == (("X", "1"),), "what is said before it holds for it"
    assert image.variables == {"X": "1"}
    assert image.spec() is image.spec()
    assert image.identity != base.identity
    assert image.build() is image


def test_equal_images_are_made_from_the_same() -> None:
    def made(*packages: str, **options: object) -> nb.Image:
        return slim().pip_install(*packages, **options)

    assert made("a").spec() == made("a").spec()
    assert made("a").identity == made("a").identity
    assert made("a").identity != made("a", extra_options="--no-deps").identity
    assert made("a", force_build=True).spec() != made("a", force_build=True).spec()


def test_where_packages_are_is_told_by_variables_that_nobody_sees() -> None:
    secret = nb.Secret.from_dict({"TOKEN": "s3cret"})
    image = slim().pip_install("a", find_links="/wheels", secrets=[secret], env={"B": "2"})
    (step,) = image.spec().steps
    found = dict(step.variables)
    assert found["PIP_FIND_LINKS"] == found["UV_FIND_LINKS"] == "/wheels"
    assert (found["TOKEN"], found["B"]) == ("s3cret", "2")
    assert "s3cret" not in repr(image) + step.title


def test_the_directory() -> None:
    assert slim().directory == ""
    assert slim().workdir("a").workdir("b").directory == "a/b"
    assert slim().workdir("a").workdir("/b").directory == "/b"


@pytest.mark.parametrize("name", ["from_registry", "run_commands", "micromamba", "uv_sync", "cmd"])
def test_what_cannot_be_says_what_to_do(name: str) -> None:
    for owner in (nb.Image, slim()):
        with pytest.raises(
            InvalidError, match=rf"Image\.{name}\('x', y=1\) is not available here; \w"
        ):
            getattr(owner, name)("x", y=1)


def test_it_travels_with_functions_and_not_as_a_value() -> None:
    with pytest.raises(SerializationError, match="image="):
        pickle.dumps(slim())


def test_an_app_gives_its_image_to_functions_that_have_none(tmp_path: Path) -> None:
    mine, other = slim().pip_install("a"), slim().pip_install("b")
    app = nb.App("imaged", image=mine)
    f = app.function(name="f")(lambda: 1)
    g = app.function(name="g", image=other)(lambda: 1)
    h = app.function(name="h", image=None)(lambda: 1)
    options = [each._options for each in (f, g, h)]
    assert [each.image for each in options] == [mine, other, None]
    assert f.with_options(image=other).key != f.with_options(image=mine).key
    version = f.read()
    assert version.spec.environment != h.read().spec.environment
    assert f.read() is version, "nothing is made anew"


def test_an_edited_file_is_another_environment_and_no_other_image(tmp_path: Path) -> None:
    file = tmp_path / "data.txt"
    file.write_text("first")
    image = slim().pip_install("a").add_local_file(file)
    f = nb.App("edited").function(name="f", image=image)(lambda: 1)
    before, spec = f.read(), image.spec()
    file.write_text("second, and longer")
    assert f.read().spec.environment != before.spec.environment
    assert image.spec().steps == spec.steps
    assert [each.content for each in image.spec().files] == [b"second, and longer"]
