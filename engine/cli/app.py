"""The command line `s3dlio`, also `python -m s3dlio`: what may be asked, and how it ends.

What a command does stands in the modules beside it.

Rules:

* An error is one line on standard error and an exit code: 2 if the request makes no sense (usage, a URI, a setting), 1 for what the
  store, the file system or the network did, 130 after Ctrl-C. A traceback means a bug, and never shows local variables (A5).
* Each command imports what it needs when it runs, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_USAGE = 2
_INTERRUPTED = 128 + 2
"""128 + SIGINT, as shells count."""


class _Commands(TyperGroup):
    """The group of all commands: the one place where an exception becomes an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command.

        Raises:
            typer.Exit: The command failed, and standard error says why.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader of our output has enough (`| head`); typer ends quietly.
            raise
        except OSError as error:
            raise typer.Exit(_report(error)) from error
        except Exception as error:
            from ..errors import S3dlioError

            if not isinstance(error, S3dlioError):
                raise
            raise typer.Exit(_report(error)) from error


def _report(error: Exception) -> int:
    from ..errors import ConfigurationError
    from .console import print_error

    print_error(str(error))
    return _USAGE if isinstance(error, ConfigurationError) else 1


app = typer.Typer(
    name="s3dlio",
    cls=_Commands,
    help="Objects from object stores and files, straight into shared memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)

UriArgument = Annotated[str, typer.Argument(metavar="URI", help="s3://bucket/key, file:///path", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from s3dlio import __version__

        typer.echo(f"s3dlio {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    log_level: Annotated[
        str | None, typer.Option("--log-level", metavar="LEVEL", help="Log to stderr: debug, info, warn or error.")
    ] = None,
) -> None:
    if log_level is not None:
        from ..ops.lifecycle import init_logging

        init_logging(log_level)


@app.command("mp-get")
def _mp_get(
    uri: UriArgument,
    procs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 4,
    jobs: Annotated[int, typer.Option(min=1, help="Requests in flight per worker process.")] = 64,
    num: Annotated[int | None, typer.Option(min=0, help="At most so many objects.", show_default=False)] = None,
    template: Annotated[
        str | None, typer.Option(help="Read `obj_{:05d}.bin` for 0 to NUM - 1 in place of listing.", show_default=False)
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Cap of the shared memory, as 1GiB.", show_default="auto")] = None,
    is_json: JsonOption = False,
) -> None:
    """Fetch every object below URI by worker processes, and say how fast that was."""
    from .mp_get import run_mp_get

    if not run_mp_get(uri, procs, jobs, num, template, memory, is_json):
        raise typer.Exit(1)


@app.command("ls")
def _ls(
    uri: UriArgument,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Descend.")] = False,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", "-p", help="A glob: *.npz against names, a/**/b against keys.", show_default=False),
    ] = None,
    is_long: Annotated[bool, typer.Option("--long", "-l", help="With sizes and dates.")] = False,
) -> None:
    """List URIs: below a raw text prefix on object stores, in a directory on file systems."""
    from .objects import show_list

    show_list(uri, recursive, pattern, is_long)


@app.command("stat")
def _stat(uri: UriArgument, is_json: JsonOption = False) -> None:
    """Show what the store knows of one object."""
    from .objects import show_stat

    show_stat(uri, is_json)


@app.command("get")
def _get(
    uri: UriArgument,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Standard output if absent.", show_default=False),
    ] = None,
) -> None:
    """Write one object to FILE, which appears whole or not at all, or to standard output."""
    from .objects import download

    download(uri, output)


@app.command("put")
def _put(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file, or - for standard input.", show_default=False)],
    uri: UriArgument,
) -> None:
    """Write FILE as an object; a URI that ends in / gets the file's name."""
    from .objects import upload

    upload(file, uri)


SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="A URI, or a path of this machine.", show_default=False)]
TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="The same; one that ends in / gets the source's name.", show_default=False)
]
BucketArgument = Annotated[
    str, typer.Argument(metavar="BUCKET", help="The name of an S3 bucket, or a URI: gs://bucket.", show_default=False)
]


@app.command("cp")
def _cp(source: SourceArgument, target: TargetArgument) -> None:
    """Copy one object, by the store itself where it can; it appears whole or not at all. Trees: upload, download."""
    from .objects import copy_one

    copy_one(source, target)


@app.command("mv")
def _mv(source: SourceArgument, target: TargetArgument) -> None:
    """Move one object; the source goes when the copy is there."""
    from .objects import move_one

    move_one(source, target)


@app.command("rm")
def _rm(
    uri: UriArgument,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="And all below it; * in the last segment is a glob then.")
    ] = False,
) -> None:
    """Delete one object by its exact name, or all below a prefix; what is not there is no error."""
    from ..ops.removal import delete

    delete(uri, recursive, progress=recursive)


@app.command("mkdir")
def _mkdir(uri: UriArgument) -> None:
    """Make a directory, or on object stores an empty marker object whose key ends in /."""
    from ..ops.buckets import mkdir

    mkdir(uri)


@app.command("create-bucket")
def _create_bucket(bucket: BucketArgument) -> None:
    """Make a bucket or container; one of yours that is there is no error."""
    from ..ops.buckets import create_bucket

    create_bucket(bucket)


@app.command("delete-bucket")
def _delete_bucket(bucket: BucketArgument) -> None:
    """Delete an empty bucket or container."""
    from ..ops.buckets import delete_bucket

    delete_bucket(bucket)


@app.command("list-buckets")
def _list_buckets(
    uri: Annotated[str, typer.Argument(metavar="URI", help="s3://, gs://, az://account/")] = "s3://", is_json: JsonOption = False
) -> None:
    """List the buckets or containers of an account, with the dates of their making."""
    from .objects import show_buckets

    show_buckets(uri, is_json)


RecursiveOption = Annotated[bool, typer.Option("--recursive/--flat", "-r/-R", help="Descend, or one level only.")]
SkipOption = Annotated[bool, typer.Option("--skip-existing", help="Pass over what is there already and has not changed.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Requests at once.")]
SelectOption = Annotated[
    str | None,
    typer.Option("--pattern", "-p", help="A glob: *.npz against names, a/**/b against relative paths.", show_default=False),
]


@app.command("upload")
def _upload(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Files, directories, globs; or one URI.", show_default=False)
    ],
    uri: UriArgument,
    jobs: JobsOption = 32,
    pattern: SelectOption = None,
    recursive: RecursiveOption = True,
    skip_existing: SkipOption = False,
    follow_symlinks: Annotated[bool, typer.Option("--follow-symlinks", help="Upload what symbolic links lead to.")] = False,
    create_bucket: Annotated[bool, typer.Option("--create-bucket", "-c", help="Make the bucket first.")] = False,
    is_json: JsonOption = False,
) -> None:
    """Write files, with their relative paths, below URI; each object appears whole or not at all."""
    from .transfer import run_upload

    if not run_upload(
        sources,
        uri,
        jobs,
        pattern,
        is_json,
        recursive=recursive,
        skip_existing=skip_existing,
        follow_symlinks=follow_symlinks,
        create_bucket=create_bucket,
    ):
        raise typer.Exit(1)


@app.command("download")
def _download(
    uri: UriArgument,
    folder: Annotated[str, typer.Argument(metavar="DIRECTORY", help="Made if it is missing; never left.", show_default=False)],
    jobs: JobsOption = 64,
    pattern: SelectOption = None,
    recursive: RecursiveOption = True,
    skip_existing: SkipOption = False,
    is_json: JsonOption = False,
) -> None:
    """Write the objects below URI, with their relative paths, as files below DIRECTORY; each appears whole or not at all."""
    from .transfer import run_download

    if not run_download(uri, folder, jobs, pattern, is_json, recursive=recursive, skip_existing=skip_existing):
        raise typer.Exit(1)


@app.command("cleanup")
def _cleanup(
    uri: UriArgument,
    older_than: Annotated[str, typer.Option("--older-than", metavar="SPAN", help="90s, 30m, 12h, 1d, 2w.")] = "1d",
    is_wanted: Annotated[bool, typer.Option("--yes", "-y", help="Abort them; else they are only listed.")] = False,
    is_json: JsonOption = False,
) -> None:
    """List what writers left below URI that were killed (uploads of S3 that were never ended, by anybody), and abort it with --yes."""
    from .cleanup import run_cleanup

    if not run_cleanup(uri, older_than, is_wanted, is_json):
        raise typer.Exit(1)


@app.command("demo")
def _demo(
    scale: Annotated[float, typer.Option(min=0.001, max=10.0, help="Size of the data set; 1 is 640 MiB.")] = 1.0,
) -> None:
    """Fetch and check a data set of 2,032 objects from a local S3 server, and clean up."""
    from .demo import run_demo

    run_demo(scale)


def main() -> None:
    """Runs the command line and exits."""
    # A locale without UTF-8 must not turn a key into a UnicodeEncodeError.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
