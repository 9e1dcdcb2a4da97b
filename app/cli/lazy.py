"""Commands whose modules are imported when they are asked for, and not to be listed."""

from importlib import import_module
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Later(TyperCommand):
    """Stands for the ``app`` of a module: has its name and help, and becomes it in use."""

    def __init__(self, name: str, module: str, help: str) -> None:
        super().__init__(name=name, callback=None, help=help, rich_help_panel=_panel(module))
        self.module = module

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Any = None,
        **extra: Any,
    ) -> Any:
        """The context of the real command, which is then what is invoked."""
        command = get_command(import_module(self.module).app)
        return command.make_context(info_name, args, parent=parent, **extra)


class LaterGroup(TyperGroup):
    """A group of them; a subclass says which."""

    later: ClassVar[dict[str, tuple[str, str]]]  # name -> module and help

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order in which they are written down."""
        return list(self.later)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The one of that name, or None."""
        if cmd_name not in self.later:
            return None
        return Later(cmd_name, *self.later[cmd_name])


def _panel(module: str) -> str:
    return "Operators: DATABASE_URL, REDIS_URL" if ".admin" in module else "Customers: over HTTP"
