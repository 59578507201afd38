"""What `manage.py up` says at the terminal, and what it leaves behind."""

from __future__ import annotations

from tests.stack import Stack


def says(output: str, what: str, how: str) -> bool:
    """Whether monitoring or alerts (`what`) are said to be `how`: in the block, or a line later where they took longer."""
    later = {"Monitoring": "Monitoring is", "Alerts": "Alerts are"}[what]
    return f"{what:<11} {how}" in output or f"{later} {how}" in output


def left_over(stack: Stack) -> list[list[str]]:
    """Command lines of the product's processes; whoever makes things in it for tests has its environment too."""
    return [command for command in stack.left_over() if "tests.sdk.arrange" not in command]
