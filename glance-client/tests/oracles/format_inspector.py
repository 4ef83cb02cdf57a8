"""Judges data as Glance does: reads lines {"declared": FORMAT, "data": HEX}, writes "ok" or a reason.

The inspectors are the real ones (oslo.utils). What Glance makes of their findings for an image in a
`bare` container is told in its `location.py`, `set_data`.
"""
import io, json, logging, sys

from oslo_utils.imageutils import format_inspector as fi

logging.disable(logging.CRITICAL)


def judge(declared, data):
    wrapper = fi.InspectWrapper(io.BytesIO(data))
    while wrapper.read(65536):
        pass
    wrapper.close()
    try:
        found = {str(one): one for one in wrapper.formats}
        inspector = found["iso"] if found.keys() == {"iso", "gpt"} else wrapper.format
        name = str(inspector)
        if name == declared:
            inspector.virtual_size
        elif not (name == "raw" and declared not in fi.ALL_FORMATS) and declared != "raw":
            return f"{declared} is {name}"
        inspector.safety_check()
    except fi.SafetyCheckFailed as unsafe:
        harmless = name == "gpt" and declared in ("aki", "ari") and set(unsafe.failures) == {"mbr"}
        return "ok" if harmless else f"unsafe {name}: {sorted(unsafe.failures)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


for line in sys.stdin:
    case = json.loads(line)
    print(judge(case["declared"], bytes.fromhex(case["data"])).replace("\n", " "))
