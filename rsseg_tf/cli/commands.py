"""The kinds of all commands and groups: options of several values, help under headings, errors with the next step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from rsseg_tf.cli.paddleseg import as_here, command_here
from rsseg_tf.errors import did_you_mean

__all__ = ["Commands", "ManyValues", "WithDefault", "combined", "group", "needed"]

F = TypeVar("F", bound=Callable[..., Any])


_WHOLE = ("FILE...", "PATH...", "KEY=VALUE...")
"""Metavars of options whose values may have commas: names of files, and what a shell made of an unquoted list."""


class ManyValues(click.Command):
    """The kind of all commands here.

    - Its repeatable options also take several values at once: `--scales 0.75 1.0 1.25`.
    - Its help lists the common options first, and the others under the headings of `group`.
    - What is missing is told with the next step, where `needed` gives one.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spells repeatable options out one value at a time, and adds the next step to errors about what is missing."""
        args = as_here(self.name, args)
        repeatable = {
            option: parameter.metavar
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for option in parameter.opts
        }
        spelled: list[str] = []
        current: str | None = None
        for argument in args:
            # `--scales -0.5` gives a value that begins with a dash, not another option.
            if argument.startswith("-") and not _is_number(argument):
                name = argument.partition("=")[0].replace("_", "-")
                current = name if name in repeatable and "=" not in argument else None
                if current is None:
                    spelled.append(argument)
            elif current is not None:
                # `--scales 0.5,1.0` is two values; the value of `--set KEY=a,b` is one list, a,b.tif one file.
                whole = "=" in argument or repeatable[current] in _WHOLE
                values = [argument] if whole else argument.split(",")
                for value in values:
                    spelled += [current, value]
            else:
                spelled.append(argument)
        try:
            return super().parse_args(ctx, spelled)
        except click.MissingParameter as error:
            step = getattr(error.param, "next_step", "")
            if isinstance(error.param, click.Option) and self._takes_no(args):
                step = f"Write {max(error.param.opts, key=len)} {args[0]}."
            if not step:
                raise
            # The choices of an argument stand below each other in click's message.
            what = " ".join(error.format_message().split()).rstrip(".")
            raise click.UsageError(f"{what}. {step}", ctx) from error

    def _takes_no(self, args: list[str]) -> bool:
        """Returns whether a value comes first, as in `train mine.yml`, where this command has options alone."""
        has_arguments = any(isinstance(parameter, click.Argument) for parameter in self.params)
        return bool(args) and not args[0].startswith("-") and not has_arguments

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section per heading, in the order of the options, after those without one."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}  # those without a heading come first
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def group(heading: str, *decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Returns a decorator that adds options under a heading in the help of a command."""

    def add(function: F) -> F:
        # Options that the function has already are told by identity: click's options compare by nothing else.
        known = {id(option) for option in getattr(function, "__click_params__", ())}
        function = combined(*decorators)(function)
        for option in getattr(function, "__click_params__", ()):
            if id(option) not in known:
                option.heading = heading
        return function

    return add


def needed(next_step: str, decorator: Callable[[F], F]) -> Callable[[F], F]:
    """Returns a decorator of a required option or argument whose absence is told with how to get one.

    Args:
        next_step: A sentence, such as "`rsseg-tf config list` names the shipped ones."
        decorator: Of click; adds one parameter.
    """

    def add(function: F) -> F:
        function = decorator(function)
        function.__click_params__[-1].next_step = next_step  # type: ignore[attr-defined]
        return function

    return add


class Commands(click.Group):
    """A group that suggests the command which a user may have meant, and says of each in full what it does."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command that the arguments name; click before 8.4 suggests none for a mistyped name."""
        names = self.list_commands(ctx)
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0].replace("_", "-")) is None:
            hint = command_here(args[0]) or did_you_mean(args[0], names)
            raise click.UsageError(f"No such command '{args[0]}'.{hint} Commands: {', '.join(names)}.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the first sentence of each command's help, uncut."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        write_commands(formatter, {name: one for name, one in found if one is not None})


def write_commands(formatter: click.HelpFormatter, commands: Mapping[str, click.Command]) -> None:
    """Writes a section of the help that lists commands with the first sentence of their help, uncut."""
    if commands:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(limit=200)) for name, one in commands.items()])


class WithDefault(click.Group):
    """Takes `serve EXPORT_DIR` beside `serve init`: arguments that begin with no subcommand go to a default command.

    Attributes:
        default: The default command's name, which nobody types.
    """

    default = "model"

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Returns the default command's context, under the group's own name, for arguments that name no other one.

        Raises:
            click.UsageError: For a name that is nearly that of a subcommand, and of no file or folder.
        """
        names_help = bool(args) and parent is not None and args[0] in parent.help_option_names
        if names_help or (args and args[0] in self._others()) or (not args and self.no_args_is_help):
            return super().make_context(info_name, args, parent, **extra)
        if args and not self._is_of_default(args[0]) and (hint := did_you_mean(args[0], self._known())):
            raise click.UsageError(f"There is no '{args[0]}'.{hint} Allowed: {', '.join(self._known())}.", parent)
        return self.commands[self.default].make_context(info_name, args, parent, **extra)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a line for each command."""
        for name in (self.default, *self._others()):
            with click.Context(self.commands[name], parent=ctx) as inner:
                pieces = self.commands[name].collect_usage_pieces(inner)
            formatter.write_usage(ctx.command_path, " ".join([*([name] if name != self.default else []), *pieces]))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the default command's options, and the other commands."""
        with click.Context(self.commands[self.default], parent=ctx) as inner:
            self.commands[self.default].format_options(inner, formatter)
        write_commands(formatter, {name: self.commands[name] for name in self._others()})

    def _others(self) -> list[str]:
        return [name for name in self.commands if name != self.default]

    def _known(self) -> list[str]:
        """Returns the words that may come first and are no path."""
        return self._others()

    def _is_of_default(self, argument: str) -> bool:
        """Returns whether an argument is meant for the default command without doubt."""
        return argument.startswith("-") or os.path.lexists(argument)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def combined(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Returns one decorator that adds all these options, in this order."""

    def add(function: F) -> F:
        # click lists in its help the decorator first that is applied last.
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return add
