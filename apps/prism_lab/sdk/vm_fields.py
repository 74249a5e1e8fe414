"""Lists the fields of the SDK's VM model; runs inside an environment that has nothing else.

stdout: a JSON list of paths, "[]" behind the name of a list. Where a field may hold one of several
types there are the fields of all of them.
"""

from __future__ import annotations

import importlib
import json
import re
import sys

_CLASS = re.compile(r":class:`~(ntnx_[\w.]+)`")
_OF_THE_SDK = ("$objectType", "$reserved", "$unknownFields")


def fields(kind, path="", above=()):
    """Yield the paths of the fields of a model class; what contains itself is not followed."""
    model = kind()
    for attribute, declared in model.swagger_types.items():
        name = model.attribute_map[attribute]
        if name in _OF_THE_SDK or "ItemDiscriminator" in name:
            continue
        here = f"{path}{name}" + ("[]" if declared.startswith("list") else "")
        yield here
        for inner in _CLASS.findall(getattr(kind, attribute).fget.__doc__ or ""):
            found = getattr(importlib.import_module(inner), inner.rpartition(".")[2])
            is_model = not issubclass(found, str) and hasattr(found(), "swagger_types")
            if is_model and found not in above:
                yield from fields(found, f"{here}.", (*above, kind))


def main():
    base = "ntnx_vmm_py_client.models.vmm.v4.ahv.config.Vm"
    vm = importlib.import_module(base).Vm
    json.dump(sorted(set(fields(vm))), sys.stdout)


if __name__ == "__main__":
    main()
