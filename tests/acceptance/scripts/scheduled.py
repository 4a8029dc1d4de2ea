"""A report each weekday, and a check every few minutes, for as long as it is deployed."""

import notebook_ext as modal

app = modal.App("example-scheduled")


@app.function(schedule=modal.Cron("0 9 * * MON-FRI", timezone="America/New_York"))
def report() -> str:
    return "nothing to report"


@app.function(schedule=modal.Period(minutes=5))
def check(limit: int = 3) -> bool:
    return limit > 2


@app.local_entrypoint()
def main() -> None:
    print(report.remote(), check.remote())
