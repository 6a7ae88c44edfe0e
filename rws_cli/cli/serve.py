"""`rws serve`."""

from typing import Annotated

import typer

from rws_cli.cli.base import DECODE, Overrides, command, takes_parts


@command(DECODE)
@takes_parts
def serve(
    overrides: Overrides = None,
    port: Annotated[int, typer.Option("--port", help="The port; 0: any that is free.", min=0, max=65535)] = 8000,
) -> None:
    """Answer OpenAI's requests on this machine, so that other tools can measure a sampler. Not for serving people.

    Example: rws serve model=tiny sampler=rws
    """
    from rws_cli.files import warn
    from rws_cli.serve.app import HOST, Server, listen
    from rws_cli.serve.queue import Queue

    socket = listen(port)
    queue = Queue(overrides or [])
    for line in queue.prepared.warnings:
        warn(line)
    config = queue.config
    typer.echo(
        f"model {config.model.name}, sampler {config.sampler.name}: http://{HOST}:{socket.getsockname()[1]}/v1 (Ctrl-C stops it)"
    )
    Server(queue).run([socket])
