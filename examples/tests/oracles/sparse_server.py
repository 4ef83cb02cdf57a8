"""A server that speaks XML-RPC alone, with sparse records and bare UUIDs as references.

Prints its port. Everything is of Python's own library.
"""

from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

WEB = "0d9aa0e5-4a4f-4a92-8d3c-7d5a1c1b8c01"
SESSION = "5f0b3c8e-9d29-4f0e-b8a3-6a3d0f7c9e02"
MACHINES = {
    # The references are what later servers call UUIDs, and most fields are not there at all.
    WEB: {"uuid": WEB, "name_label": "web01 <&>", "power_state": "Running", "is_a_template": False},
    "77": {"name_label": "no uuid", "VCPUs_max": "2", "memory_static_max": "1073741824"},
    "78": {"name_label": "template", "is_a_template": True},
    "79": {"name_label": "Control domain on host", "is_control_domain": True},
    "80": {},
}


class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/", "/RPC2")

    def log_message(self, *_):
        pass


class Pool:
    def _dispatch(self, method, params):
        if method == "session.login_with_password":
            return {"Status": "Success", "Value": SESSION}
        if params[0] != SESSION:
            return {"Status": "Failure", "ErrorDescription": ["SESSION_INVALID", params[0]]}
        if method == "VM.get_all_records":
            return {"Status": "Success", "Value": MACHINES}
        if method == "session.logout":
            return {"Status": "Success", "Value": ""}
        return {"Status": "Failure", "ErrorDescription": ["MESSAGE_METHOD_UNKNOWN", method]}


server = SimpleXMLRPCServer(("127.0.0.1", 0), Handler, logRequests=False)
server.register_instance(Pool())
print(server.server_address[1], flush=True)
server.serve_forever()
