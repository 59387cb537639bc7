"""``rh-connector doctor``: what is wrong, and how to mend it."""

from __future__ import annotations

from dataclasses import asdict

import click

from connector.cli.context import Context, pass_context

_SHOWN = {"ok": "ok", "warn": "warn", "fail": "FAIL"}


@click.command("doctor")
@click.option("--load", is_flag=True, help="Load the model as well, and rerank three documents with it.")
@pass_context
def command(context: Context, load: bool) -> None:
    """Check machine, model, cluster and write-back, and say how to mend what is wrong.

    One line a check: ok, warn or FAIL, what was seen, and the mend. Nothing is changed or fetched. The exit code is 0
    without a FAIL, else that of the first: 2 settings, 3 cluster or index, 4 model. See docs/troubleshooting.md.
    """
    from connector.diagnosis import diagnose, exit_code

    settings = context.settings()
    findings = []
    for finding in diagnose(settings, load=context.models.reranker if load else None):
        findings.append(finding)
        if not context.as_json:
            mend = f"; {finding.mend}" if finding.mend else ""
            click.echo(f"{_SHOWN[finding.level]:<6}{finding.check}: {finding.seen}{mend}")
    if context.as_json:
        rows = [asdict(finding) for finding in findings]
        context.print_json([{key: value for key, value in row.items() if key != "code"} for row in rows])
    click.get_current_context().exit(exit_code(findings))
