"""`mpisqueeze data get` and `mpisqueeze data list`."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

from mpisqueeze.cli.completion import offering
from mpisqueeze.cli.options import arguments, command, in_run
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode
from mpisqueeze.settings import Settings


@command(("data_dir",), to=())
def data_get(
    settings: Settings,
    output: Output,
    names: Annotated[
        list[str],
        arguments("NAME…", "mnist, fashion-mnist or cifar10.", offering(("mnist", "fashion-mnist", "cifar10"))),
    ],
    mirror: Annotated[
        str | None,
        in_run(
            help="Ask this address alone, for NAME/FILE below it. Default: $MPISQUEEZE_MIRROR, else public servers.",
            metavar="URL",
        ),
    ] = None,
    force: Annotated[bool, in_run("--force", help="Replace files that are not the published ones.")] = False,
) -> int:
    """Download data sets into the data folder; go on where it stopped before, and check every file's SHA-256.

    [bold]mpisqueeze data get mnist --data-dir ~/data[/]
    """
    from mpisqueeze.bench.alone import on_root_alone
    from mpisqueeze.data.files import data_folder
    from mpisqueeze.data.getting import choose_mirror, find_published, get
    from mpisqueeze.data.published import DownloadError
    from mpisqueeze.report.download_view import DownloadView
    from mpisqueeze.report.terminal import broken

    def work() -> int:
        output.check()
        sources, chosen = [find_published(name) for name in names], choose_mirror(mirror)
        root = data_folder(settings.data_dir)
        view = DownloadView(output.console, output.live)
        stopped_by = ExitCode.INTERRUPTED

        def terminate(number: int, frame: Any) -> None:
            nonlocal stopped_by
            stopped_by = ExitCode.TERMINATED
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, terminate)
        try:
            for source in dict.fromkeys(sources):
                received = get(source, root, chosen, force, view)
                view.done(source.name, root / source.name, len(source.files), received)
        except DownloadError as error:
            view.close()
            print(broken(f"mpisqueeze: error: {error}"), file=sys.stderr, flush=True)
            return ExitCode.FAILED
        except KeyboardInterrupt:
            view.close()
            print("mpisqueeze: stopped; the same command goes on from here", file=sys.stderr, flush=True)
            return stopped_by
        finally:
            view.close()
            signal.signal(signal.SIGTERM, before)
        return ExitCode.OK

    return on_root_alone(work)


@command(("data_dir",))
def data_list(settings: Settings, output: Output) -> int:
    """List the data sets to download, and how much of each is in the data folder."""
    from mpisqueeze.data.files import data_folder
    from mpisqueeze.data.getting import present
    from mpisqueeze.data.published import PUBLISHED
    from mpisqueeze.report.download_view import listing

    output.check()
    root = data_folder(settings.data_dir)
    rows = [
        {
            "name": source.name,
            "summary": source.summary,
            "page": source.page,
            "download_bytes": sum(file.size for file in source.downloads),
            "folder": str((root / source.name).absolute()),
            "files": len(source.files),
            "files_present": present(source, root),
        }
        for source in PUBLISHED.values()
    ]
    if not output.alone:
        output.print(listing(rows, root))
    output.json({"data_dir": str(root.absolute()), "data_sets": rows})
    return ExitCode.OK
