"""The functions as Python sees them: packages that are called, keyword names, codes of errors."""

from __future__ import annotations

import ast
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import rsseg_tf
from rsseg_tf import errors
from rsseg_tf.cli import main

ROOT = Path(__file__).resolve().parents[2]
ORDERS = (
    "import rsseg_tf; rsseg_tf.NAME; import rsseg_tf.NAME.MODULE",
    "import rsseg_tf.NAME.MODULE; import rsseg_tf; rsseg_tf.NAME.MODULE",
    "from rsseg_tf import NAME; import rsseg_tf; assert rsseg_tf.NAME is NAME",
    "from rsseg_tf.NAME import MODULE; import rsseg_tf",
)
CALLED = {"predict": "options", "prepare": "run"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CALLED)
def test_a_package_is_called_in_any_order_of_imports(name: str, order: str) -> None:
    code = order.replace("NAME", name).replace("MODULE", CALLED[name])
    code += f"; assert callable(rsseg_tf.{name}) and rsseg_tf.{name}.__spec__ is not None"
    code += "; import sys; assert not {'keras', 'tensorflow'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["predict", "evaluate", "export", "prepare"])
def test_a_package_looks_like_its_function(name: str) -> None:
    package, function = getattr(rsseg_tf, name), getattr(sys.modules["rsseg_tf.library"], name)
    assert inspect.ismodule(package) and callable(package)
    assert inspect.signature(package) == inspect.signature(function)
    assert package.__doc__ == function.__doc__ and "Args:" in str(package.__doc__)
    assert pickle.loads(pickle.dumps(package)) is package
    assert pickle.loads(pickle.dumps(function)) is function


# Command -> function, options by another name, and options of the terminal alone.
COMMANDS: dict[str, tuple[str, dict[str, str], set[str]]] = {
    "train": ("train", {"set": "overrides", "output": "save_dir", "logger": "loggers"}, set()),
    "pretrain": ("pretrain", {"set": "overrides", "output": "save_dir", "logger": "loggers"}, {"batch_size"}),
    "eval": ("evaluate", {"set": "overrides", "output": "save_dir"}, {"trust"}),
    "predict": (
        "predict",
        {"set": "overrides", "output": "save_dir", "no_pictures": "pictures", "model_path": "model"},
        {"trust", "server", "model_name", "in_flight", "timeout", "patience", "manifest"},
    ),
    "export": ("export", {"set": "overrides"}, set()),
    "convert": ("convert", {"set": "overrides"}, set()),
    "verify": ("verify", {}, {"trust", "json", "output"}),
    "probe": ("probe", {"set": "overrides"}, {"json", "output"}),
    "check-data": ("check_data", {"set": "overrides", "config": "source"}, {"strict", "show", "json", "output"}),
}


def options_of(name: str) -> Iterator[list[str]]:
    """Yields the long names of each option of a command, with underscores."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield [one.removeprefix("--").replace("-", "_") for one in parameter.opts if one.startswith("--")]


@pytest.mark.parametrize("name", COMMANDS)
def test_keywords_are_the_options(name: str) -> None:
    function, others, terminal = COMMANDS[name]
    known = set(inspect.signature(getattr(rsseg_tf, function)).parameters)
    missing = [
        names for names in options_of(name)
        if not set(names) & (known | terminal) and not {others.get(one) for one in names} & known
    ]  # fmt: skip
    assert not missing, f"rsseg_tf.{function} lacks {missing}"


def test_a_wrong_name_is_told() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'bandz'"):
        rsseg_tf.predict("m", "i", bandz=[1])  # type: ignore[call-arg]


def test_public_functions_take_any_path() -> None:
    """`Path` alone as the type of an argument would leave texts out."""
    from docs import make_api

    found = []
    for module in make_api.public_modules():
        for name in make_api.exported(make_api.tree(module)):
            known = make_api.definition(module, name)
            if known is None or not isinstance(known[0], ast.FunctionDef):
                continue
            arguments = known[0].args
            for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                if one.annotation is not None and ast.unparse(one.annotation) in ("Path", "Path | None"):
                    found.append(f"{module}.{name}: {one.arg}")
    assert not found, "write StrPath, and make a Path of it"


def test_devices_after_tensorflow_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook on a machine with a GPU."""
    import tensorflow as tf

    from rsseg_tf.library.devices import choose_device

    def too_late(*_: object) -> None:
        raise RuntimeError("cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", too_late)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *_: None)
    choose_device("auto", ())  # the same devices as before
    monkeypatch.setattr(tf.config, "set_visible_devices", too_late)
    with pytest.raises(errors.ConfigError, match="chosen before TensorFlow runs anything"):
        choose_device("cpu", ())


# === Errors ===


def codes_in_the_source() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "rsseg_tf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("Error"):
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        yield str(keyword.value.value), path.name


def test_every_code_is_told_and_in_use() -> None:
    classes: list[type[errors.RssegError]] = [errors.RssegError, *errors.RssegError.__subclasses__()]
    of_classes = {kind.code for kind in classes}
    used = {code for code, _ in codes_in_the_source()}
    assert used | of_classes == set(errors.CODES)
    assert not used & of_classes, "a class has its code already"


def test_codes_survive_processes_and_names_of_files() -> None:
    error = errors.DataError("a.tif is gone", code="not-found")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.code) == (errors.DataError, "a.tif is gone", "not-found")
    assert errors.ConfigError("x").code == "config" and errors.NotFiniteError("x", 3).code == "not-finite"
    with pytest.raises(errors.DataError) as caught, errors.naming("list.txt"):
        raise error
    assert str(caught.value) == "list.txt: a.tif is gone" and caught.value.code == "not-found"
