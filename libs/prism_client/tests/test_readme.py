"""The example in the README runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"


def test_the_example(prism: Any) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code
    text = (
        code[1]
        .replace('Endpoint("prism.example.com")', f'Endpoint("{prism.pc}", {prism.port})')
        .replace('"secret"', repr(prism.password))
        .replace('"ca.pem"', repr(str(prism.ca_file)))
    )
    prism.task_statuses = ["SUCCEEDED"]
    prism.regions = [(0, 65536, "REGULAR"), (1 << 20, 65536, "REGULAR")]
    names: dict[str, Any] = {}
    exec(compile(text, str(README), "exec"), names)
    assert names["result"] == f"disk 0: 131072 of {prism.disk_size} bytes are allocated"
    assert list(prism.lists["dataprotection:config/recovery-points"]) == []
