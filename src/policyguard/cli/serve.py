"""``policyguard serve``: the service, and the keys of those who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from policyguard.cli.errors import command, warn
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, SUBSET, Group, group
from policyguard.errors import MissingExtraError
from policyguard.runs.exits import ExitCode

__all__ = ["app"]


class _Run(TyperCommand):
    """The command that has no name of its own."""

    class context_class(TyperCommand.context_class):  # type: ignore[misc, valid-type]  # noqa: N801
        @property
        def command_path(self) -> str:
            return str(super().command_path).rstrip()


class _Serve(Group):
    """``policyguard serve policies/`` needs no name of a command between the two."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._run = self.commands.pop("run")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["", *args])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) if cmd_name else self._run


app = typer.Typer(
    cls=_Serve, rich_markup_mode=None, help="Serve verdicts over HTTP, and a page to try policies on."
)


@app.command("run", cls=_Run)
@command
def run(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="Folders of YAML files, YAML files, packaged names.",
            show_default=False,
        ),
    ],
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    subset: SUBSET = None,
    cache: Annotated[
        str | None, typer.Option("--cache", metavar="PATH", help="Keep the model's scores in this file.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", metavar="FILE", help="Who may ask: see `policyguard serve key new -h`."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port; 0: any free one.")] = 8765,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="Images that the page shows.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Let the page save policies and tests.")] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", metavar="N", min=1, max=1024, help="Images judged at the same time."),
    ] = None,
    queue: Annotated[
        int, typer.Option("--queue", metavar="N", min=0, help="Requests that may wait; one more gets 429.")
    ] = 256,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0.001,
            help="For one check, and as long again for the wait before it.",
        ),
    ] = 30.0,
    shadow: Annotated[
        list[str] | None,
        typer.Option(
            "--shadow",
            metavar="NAME=POLICY",
            help="Let another policy judge beside the served policy NAME, without effect; "
            "NAME alone: the same policy by --shadow-model. Repeatable.",
        ),
    ] = None,
    shadow_share: Annotated[
        float,
        typer.Option("--shadow-share", metavar="SHARE", help="Of the images, that shadows judge (0 to 1)."),
    ] = 0.1,
    shadow_model: Annotated[
        str | None, typer.Option("--shadow-model", metavar="MODEL", help="The model of shadows.")
    ] = None,
    shadow_base_url: Annotated[
        str | None,
        typer.Option("--shadow-base-url", metavar="URL", help="A server that runs --shadow-model."),
    ] = None,
) -> ExitCode:
    """Serve verdicts over HTTP, and a page to try policies on.

    Policies are loaded again when their files change. Without --keys, only this machine is answered.
    """
    try:
        from policyguard.server.app import Settings, serve
    except ModuleNotFoundError as error:
        if error.name in ("fastapi", "prometheus_client", "starlette", "uvicorn"):
            raise MissingExtraError(error.name, "server") from None
        raise
    return serve(
        Settings(
            policies=tuple(policies),
            model=model,
            base_url=base_url,
            dialect=dialect,
            subset=bool(subset),
            cache=cache,
            keys=keys,
            host=host,
            port=port,
            images=images,
            write=write,
            workers=workers,
            queue=queue,
            timeout=timeout,
            shadow=tuple(shadow or ()),
            shadow_share=shadow_share,
            shadow_model=shadow_model,
            shadow_base_url=shadow_base_url,
        )
    )


key = group("Keys of those who may use a service.")
app.add_typer(key, name="key")


@key.command("new")
@command
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for the log.")],
    keys: Annotated[Path, typer.Option("--keys", metavar="FILE", help="The file that serve --keys reads.")],
    policies: Annotated[
        list[str],
        typer.Option("--policy", "-p", metavar="NAME", help="A policy it may use; '*' is all. Repeatable."),
    ],
    rate: Annotated[
        float | None,
        typer.Option("--rate", metavar="N", min=0.001, help="Requests per second. Default: no limit."),
    ] = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="It may also reload policies, and see the page and metrics.")
    ] = False,
) -> ExitCode:
    """Make a key, add its hash to a file, and print the key, which is kept nowhere.

    To take a key back, delete its entry; a service reads the file again when it changes. The names of
    policies are not checked here: the service's log warns of one that it does not serve.
    """
    from policyguard.server.keys import new_key

    before = _owner(keys)
    print(new_key(keys, name, policies=policies, rate=rate, operator=operator))
    warn(f"its hash is in {keys}; the key itself is shown this once")
    if before not in (None, now := _owner(keys)):
        back = f"`chown {before} {keys}`, if the service is to read it"
        warn(f"{keys} had the owner {before}, and now has {now}: {back}")
    return ExitCode.OK


def _owner(file: Path) -> str | None:
    """User and group, as `chown` takes them."""
    try:
        status = file.stat()
    except OSError:
        return None
    return f"{status.st_uid}:{status.st_gid}"
