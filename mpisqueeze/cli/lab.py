"""`mpisqueeze lab`."""

from __future__ import annotations

from typing import Annotated

import typer

from mpisqueeze.cli.options import command, in_network
from mpisqueeze.cli.output import Output
from mpisqueeze.errors import ExitCode


@command()
def lab(
    context: typer.Context,
    output: Output,
    ranks: Annotated[int, typer.Option("-n", "--ranks", metavar="N", help="Number of hosts, of one rank each.")],
    rate: Annotated[
        str | None, in_network(help="Rate of every host's link, each way: 100mbit, 2.5gbit.", metavar="RATE")
    ] = None,
    rates: Annotated[str | None, in_network(help="Run COMMAND once at each.", metavar="RATE,RATE,…")] = None,
    delay: Annotated[str, in_network(help="Delay from host to host: 5ms, 20us.", metavar="TIME")] = "0s",
    mtu: Annotated[int, in_network(help="Bytes of the largest packet.", metavar="BYTES")] = 1500,
    any_program: Annotated[
        bool, typer.Option("--exec", help="COMMAND is any program with its arguments, and every rank runs it.")
    ] = False,
) -> int:
    """Run COMMAND on a virtual cluster: N hosts in namespaces of this Linux machine, shaped links, real TCP, no root.

    [bold]mpisqueeze lab -n 8 --rates 1gbit,100mbit train --algorithm doublesqueeze --server sharded[/]
    """
    from mpisqueeze.lab.cluster import TrialOutcome, check_machine, run_trial
    from mpisqueeze.lab.results import lab_results
    from mpisqueeze.lab.trials import plan_trials
    from mpisqueeze.quantities import format_rate
    from mpisqueeze.report.lab_view import lab_report

    output.check()
    trials = plan_trials(ranks, rate, rates, delay, mtu, list(context.args), any_program, output.color)
    machine = check_machine()
    outcomes: list[TrialOutcome] = []
    for number, trial in enumerate(trials, 1):
        if len(trials) > 1:
            output.print(f"[{number}/{len(trials)}] {format_rate(trial.links.rate)}", style="bold")
        outcomes.append(run_trial(trial, machine, to_stderr=output.alone))
        if outcomes[-1].code not in (ExitCode.OK, ExitCode.DIVERGED):
            break
    facts = lab_results(outcomes)
    if facts["results"] or outcomes[0].code != ExitCode.USAGE:
        output.print(lab_report(facts))
    output.json(facts)
    return next((outcome.code for outcome in outcomes if outcome.code), ExitCode.OK)
