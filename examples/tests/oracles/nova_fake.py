"""Serves the pool that OpenStack's nova kept for its own tests, over XML-RPC.

It speaks nothing else, most fields of its records are missing, and its references are bare UUIDs.
Needs nova 21.2.4 and os-xenapi without their dependencies, and a few libraries of oslo; prints its
port.
"""

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

# The packages' own __init__ files import the whole driver: empty ones stand in for them.
root = Path(find_spec("nova").submodule_search_locations[0])
for name in ["nova", "nova.virt", "nova.virt.xenapi"]:
    module = types.ModuleType(name)
    module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
    sys.modules[name] = module
from nova.virt.xenapi import fake  # noqa: E402

fake.reset()
fake.create_vm("web01", "Running", is_a_template=False, is_control_domain=False)
fake.create_vm("db01", "Halted", is_a_template=False, is_control_domain=False)
session = fake.SessionBase("http://127.0.0.1")


def plain(value):
    """What XML-RPC of the pool can hold: numbers go as text."""
    if isinstance(value, bool) or value is None:
        return value or False
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)) or type(value).__name__.startswith("dict_"):
        return [plain(item) for item in value]
    return value


class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/", "/RPC2")

    def log_message(self, *_):
        pass


class Pool:
    def _dispatch(self, method, params):
        try:
            if method.startswith("session.login"):
                session._login(method, params)
                return {"Status": "Success", "Value": session._session}
            if method == "session.logout":
                session._session = params[0]
                session._logout()
                return {"Status": "Success", "Value": ""}
            session._session = params[0]
            call = getattr(session, method, None)
            if call is None:
                raise fake.xenapi_session.XenAPI.Failure(["MESSAGE_METHOD_UNKNOWN", method])
            result = call(*params[1:]) if method.startswith("session.") else call(*params)
            return {"Status": "Success", "Value": plain(result)}
        except NotImplementedError:
            return {"Status": "Failure", "ErrorDescription": ["NOT_IMPLEMENTED", method]}
        except Exception as error:  # noqa: BLE001
            details = getattr(error, "details", None) or ["INTERNAL_ERROR", repr(error)]
            return {"Status": "Failure", "ErrorDescription": [str(part) for part in details]}


server = SimpleXMLRPCServer(("127.0.0.1", 0), Handler, logRequests=False, allow_none=True)
server.register_instance(Pool())
print(server.server_address[1], flush=True)
server.serve_forever()
