"""The command line: what each verb is called and takes.  What it does is in the module that it calls."""

import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated

import typer

from potluck.aggregation.errors import PotluckError
from potluck.cli.arguments import explained
from potluck.cli.durations import seconds
from potluck.cli.extras import needs
from potluck.cli.report import fail

app = typer.Typer(
    name="potluck",
    help="Train a model together; everyone's text stays at home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for programs.")]
RunFolder = Annotated[
    Path | None, typer.Option("--folder", help="The coordinator's folder; found by itself where there is one here.")
]
OnPersonal = Annotated[bool, typer.Option("--personal", help="With your personal adapter, over the shared one.")]
OPERATOR, VOLUNTEER, ANYBODY = "Host a run", "Take part", "Use what came out"
RESEARCHER = "Try a recipe first"


@app.command(rich_help_panel=ANYBODY)
def demo(
    folder: Annotated[Path, typer.Option(help="Where it works; made anew each time.")] = Path("potluck-demo"),
    as_json: AsJson = False,
) -> None:
    """Show it all on this machine: one coordinator, four volunteers, a real model; about ten minutes."""
    with needs("client"):
        from potluck.cli.demonstration import show_demo

        show_demo(folder, as_json=as_json)


@app.command(rich_help_panel=OPERATOR)
def host(
    recipe: Annotated[Path, typer.Argument(help="The run's recipe, a TOML file.", show_default=False)],
    folder: Annotated[
        Path | None, typer.Option(help="Where the run lives; by default ./potluck-NAME, after the run's name.")
    ] = None,
    listen: Annotated[str, typer.Option(help="Address and port to listen on.")] = "0.0.0.0:8470",
    address: Annotated[
        list[str] | None, typer.Option(help="host:port that volunteers reach it at; may be given four times.")
    ] = None,
    database: Annotated[str | None, typer.Option(help="Database URL; by default SQLite in the folder.")] = None,
    *,
    probe: Annotated[
        Path | None,
        typer.Option(help="Text that nobody trains on, a file or a folder: a version that is worse on it is refused."),
    ] = None,
    probe_tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="How much worse is too much, as a share of the loss.")
    ] = 0.01,
    ray_address: Annotated[
        str | None,
        typer.Option(help='Combine on this Ray cluster, which must see the folder; "local" uses all cores here.'),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Host a run: one process, one file of settings.  Ctrl-C ends it; nothing is lost."""
    from potluck.cli.hosting import Hosting, run_host

    addresses = tuple(address or ())
    asked = Hosting(recipe, folder, listen, addresses, database, probe, probe_tolerance, ray_address)
    run_host(asked, as_json=as_json)


@app.command(rich_help_panel=OPERATOR)
def invite(
    folder: RunFolder = None,
    uses: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many volunteers may join with it.")] = 1,
    expires: Annotated[
        float, typer.Option(parser=seconds, metavar="TIME", help="Good for so long: 90m, 12h, 7d.")
    ] = "7d",  # type: ignore[assignment]  # typer parses the default too
    address: Annotated[list[str] | None, typer.Option(help="host:port; by default as the host told last.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an invite: one line of text that lets volunteers in."""
    from potluck.cli.operating import make_invite

    make_invite(folder, uses=uses, expires_s=expires, addresses=tuple(address or ()), as_json=as_json)


@app.command(rich_help_panel=OPERATOR)
def rollback(
    version: Annotated[int, typer.Argument(min=0, max=1 << 40, help="The version to go back to.")],
    folder: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier version the present one again, as a new version."""
    from potluck.cli.operating import roll_back

    roll_back(folder, version, as_json=as_json)


@app.command(rich_help_panel=OPERATOR)
def remove(
    client: Annotated[str, typer.Argument(help="The client's id, from `potluck history --folder FOLDER`.")],
    folder: RunFolder = None,
) -> None:
    """End a client's membership for good: it gets no more work, and nothing more of it counts."""
    from potluck.cli.operating import remove_client

    remove_client(folder, client)


@app.command(rich_help_panel=VOLUNTEER)
def join(
    invite: Annotated[str, typer.Argument(help="The invite, or a file that holds it; none: go on.")] = "",
    data: Annotated[Path | None, typer.Option(help="Your text: a file, or a folder.")] = None,
    name: Annotated[str, typer.Option(help="What the operator may call you.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the card without being asked.")] = False,
    *,
    keep_flagged: Annotated[
        bool, typer.Option("--keep-flagged", help="Train also on samples that look secret or personal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Join a run, or go on with it: checks, shows what leaves and what never leaves, asks, then works."""
    with needs("client"):
        from potluck.cli.joining import Joining, run_join

        run_join(Joining(invite, data, name, yes=yes, keep_flagged=keep_flagged), as_json=as_json)


@app.command(rich_help_panel=VOLUNTEER)
def status(folder: RunFolder = None, as_json: AsJson = False) -> None:
    """Say what is going on, why, and until when: a volunteer's own, or a coordinator's with --folder."""
    if folder is not None:
        from potluck.cli.operating import show_status

        show_status(folder, as_json=as_json)
        return
    with needs("client"):
        from potluck.cli.owner import show_own_status

        show_own_status(as_json=as_json)


@app.command(rich_help_panel=VOLUNTEER)
def pause(
    span: Annotated[
        float | None,
        typer.Argument(parser=seconds, metavar="[TIME]", help="For so long: 15m, 2h; none: until resumed."),
    ] = None,
    folder: RunFolder = None,
) -> None:
    """Stop computing at the next step and free the memory; with --folder, a coordinator gives out no new work."""
    if folder is not None:
        from potluck.cli.operating import set_open

        set_open(folder, accepting=False)
        return
    with needs("client"):
        from potluck.cli.owner import pause as run

        run(span)


@app.command(rich_help_panel=VOLUNTEER)
def resume(folder: RunFolder = None) -> None:
    """Go on after a pause; with --folder, a coordinator gives out work again."""
    if folder is not None:
        from potluck.cli.operating import set_open

        set_open(folder, accepting=True)
        return
    with needs("client"):
        from potluck.cli.owner import resume as run

        run()


@app.command(rich_help_panel=VOLUNTEER)
def finish() -> None:
    """Take no more work, deliver what is under way, then stop."""
    with needs("client"):
        from potluck.cli.owner import finish as run

        run()


@app.command(rich_help_panel=VOLUNTEER)
def leave(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove key, receipts, work and personal adapter; the ledger stays.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Leave the run: what is not combined yet is dropped, the coordinator forgets you from now on."""
    with needs("client"):
        from potluck.cli.owner import leave as run

        run(purge=purge, yes=yes)


@app.command(rich_help_panel=VOLUNTEER)
def limits(
    changes: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="What to change.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show or change how much of this machine is given away: battery, cores, priority, memory, disk."""
    with needs("client"):
        from potluck.cli.limiting import show_or_set

        show_or_set(tuple(changes or ()), as_json=as_json)


@app.command(rich_help_panel=VOLUNTEER)
def history(
    folder: RunFolder = None,
    limit: Annotated[int, typer.Option(min=1, help="How many lines.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List your receipts, or with --folder a coordinator's versions and what each client gave."""
    if folder is not None:
        from potluck.cli.operating import show_history

        show_history(folder, limit, as_json=as_json)
        return
    with needs("client"):
        from potluck.cli.owner import show_own_history

        show_own_history(limit, as_json=as_json)


@app.command(rich_help_panel=VOLUNTEER)
def inspect(
    item: Annotated[
        str, typer.Argument(help="The start of an update's digest or of its lease; none: what leaves next.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Open an update that waits to leave: its tensors, norms, clip, noise, size and signature."""
    with needs("client"):
        from potluck.cli.inspecting import run_inspect

        run_inspect(item, as_json=as_json)


@app.command(name="try", rich_help_panel=ANYBODY)
def try_(
    prompt: Annotated[str, typer.Argument(help="What to say to both.")],
    adapter: Annotated[
        Path | None, typer.Option(help="A release folder; by default the shared adapter of the run you are in.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=2048, help="Longest answer, in tokens.")] = 80,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest word.")] = 0.0,
    *,
    personal: OnPersonal = False,
    as_json: AsJson = False,
) -> None:
    """Put one prompt to the base model and to the shared adapter, side by side; with --personal, to yours too."""
    with needs("client"):
        from potluck.cli.using import Asking, try_all

        try_all(Asking(prompt, adapter, tokens, temperature, personal), as_json=as_json)


@app.command(rich_help_panel=ANYBODY)
def export(
    to: Annotated[Path, typer.Option("--to", help="A new folder.")],
    form: Annotated[
        str, typer.Option("--format", help="peft (an adapter), merged (a whole model) or gguf (for llama.cpp).")
    ] = "peft",
    adapter: Annotated[
        Path | None, typer.Option(help="A release folder; by default the shared adapter of the run you are in.")
    ] = None,
    *,
    personal: OnPersonal = False,
    as_json: AsJson = False,
) -> None:
    """Write the shared adapter for other programs: PEFT, llama.cpp, or merged into the base model."""
    with needs("client"):
        from potluck.cli.using import Exporting, export_to

        export_to(Exporting(to, form, adapter, personal), as_json=as_json)


@app.command(rich_help_panel=ANYBODY)
def personalize(
    data: Annotated[Path | None, typer.Option(help="Your text; by default what you take part with.")] = None,
    rank: Annotated[int | None, typer.Option(min=2, max=8, help="Its rank; 4 unless told otherwise.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Optimiser steps; five times through the text unless told otherwise.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="AdamW's step size; 0.0003 unless told otherwise.")
    ] = None,
    proximal: Annotated[
        float | None, typer.Option(min=0, help="How hard it is pulled to the shared adapter; not at all unless told.")
    ] = None,
    *,
    gate: Annotated[
        bool | None, typer.Option("--gate/--no-gate", help="Whether each token gets its own share (yes).")
    ] = None,
    share_a: Annotated[
        bool | None, typer.Option("--share-a/--own-a", help="Train B alone, on the shared adapter's A (no).")
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Seal it with a passphrase, not with the system's keyring.")
    ] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Begin again; what is here is replaced.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train an adapter of your own over the shared one; it stays here, encrypted.  Again: over a newer version."""
    with needs("client"):
        from potluck.cli.personalizing import Personalizing, run_personalize

        named = {
            "rank": rank,
            "steps": steps,
            "learning_rate": learning_rate,
            "proximal": proximal,
            "gated": gate,
            "share_a": share_a,
        }
        wish = {name: value for name, value in named.items() if value is not None}
        run_personalize(Personalizing(data, wish, passphrase, anew), as_json=as_json)


@app.command(rich_help_panel=ANYBODY)
def verify(
    path: Annotated[Path, typer.Argument(help="A release folder, or a log.jsonl.")],
    coordinator: Annotated[str, typer.Option(help="The coordinator's id that it must be signed by.")] = "",
    as_json: AsJson = False,
) -> None:
    """Check that a release, or a round log, is whole and who signed it."""
    from potluck.cli.verifying import run_verify

    run_verify(path, coordinator, as_json=as_json)


@app.command(rich_help_panel=RESEARCHER)
def simulate(
    recipe: Annotated[Path, typer.Argument(help="The run's recipe, a TOML file.", show_default=False)],
    *,
    clients: Annotated[int, typer.Option(min=1, help="Clients in the world.")] = 100,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds; 0 means the recipe's run.versions.")] = 0,
    scenario: Annotated[
        str, typer.Option(help="The world: the name of a scenario that comes along, or a file.")
    ] = "steady",
    attack: Annotated[
        str, typer.Option(help="What hostile clients send, such as sign_flip; see docs/simulation.md.")
    ] = "",
    attack_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the clients that are hostile.")] = 0.2,
    folder: Annotated[
        Path | None, typer.Option(help="Where the run is written; by default ./potluck-simulated-NAME.")
    ] = None,
    engine: Annotated[str, typer.Option(help="batched, or sequential: one client after the other.")] = "batched",
    dtype: Annotated[
        str, typer.Option(help="Numbers of the base model: auto, native (as volunteers'), bfloat16, float32, float64.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; by default as many as cores allow.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each worker.")] = 1,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Clients that train in one batch; by default as many as fit.")
    ] = None,
    measured: Annotated[int, typer.Option(min=0, help="Clients on whose text versions are measured.")] = 100,
    measure_every: Annotated[int, typer.Option(min=1, help="Rounds from one measurement to the next.")] = 1,
    own_losses: Annotated[
        bool, typer.Option(help="Whether clients measure before and after training, as volunteers do.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Train on this Ray cluster, which must see the folder and the base model.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try a recipe with many clients that are simulated, and write a report.  Ctrl-C ends it; --resume goes on."""
    with needs("simulations"):
        from potluck.cli.simulating import Simulating, run_simulate

        many = (
            attack,
            attack_share,
            folder,
            engine,
            dtype,
            workers,
            threads,
            at_once,
            measured,
            measure_every,
            own_losses,
        )
        run_simulate(Simulating(recipe, clients, rounds, scenario, *many, ray_address, resume), as_json=as_json)


@app.command(rich_help_panel=RESEARCHER)
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of simulated runs, two or more.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="Where compare.html and compare.png go.")] = Path("potluck-compare"),
    target: Annotated[
        float | None, typer.Option(min=0, help="Held-out loss to reach; by default the lowest that every run reached.")
    ] = None,
    budget_bytes: Annotated[float | None, typer.Option("--bytes", min=0, help="Budget: bytes up and down.")] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Budget: simulated hours.")] = None,
    tokens: Annotated[float | None, typer.Option(min=0, help="Budget: tokens learned from.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Put simulated runs side by side: quality under a budget, cost to a target, robustness."""
    with needs("simulations"):
        from potluck.cli.comparing import run_compare
        from potluck.simulations.reports.comparison import Asked

        given = {"bytes": budget_bytes, "hours": hours, "tokens": tokens}
        asked = Asked({name: value for name, value in given.items() if value is not None}, target)
        run_compare(runs, asked, to, as_json=as_json)


def main() -> None:
    """Run the command line.  Exit 0 done, 1 the user can fix it, 2 wrong usage, 70 our bug."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not spin
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before grpc: what it has to say, our errors say in words
    # peft 0.21 asks transformers 5 for something under its old name; nobody here can mend that
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
    try:
        explained(app)()
    except PotluckError as error:
        sys.exit(fail(error))
    except Exception as error:  # noqa: BLE001 - the edge: anything not ours is our bug
        if isinstance(error, OSError) and error.filename is not None:  # only its owner can know why a path is so
            told = f"{error.filename}: {error.strerror}"
            sys.exit(fail(PotluckError(told, fix="check the path, its rights and the room there")))
        traceback.print_exc()
        sys.exit(70)
