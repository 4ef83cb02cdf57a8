//! XML-RPC against a server that shares no code with ours: the one in Python's library.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use xenapi::{Client, Ref, vm};

const SCRIPT: &str = r#"
import socketserver, xmlrpc.client
from xmlrpc.server import SimpleXMLRPCServer, SimpleXMLRPCRequestHandler
class Handler(SimpleXMLRPCRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
def ok(value): return {"Status": "Success", "Value": value}
class Pool:
    names = {}
    def _dispatch(self, method, params):
        if method == "session.login_with_password":
            assert params[0] == "root" and params[1] == "a<&>\u00e9", params
            assert params[3] == "test", params
            return ok("OpaqueRef:s")
        assert params[0] == "OpaqueRef:s", params
        if method == "VM.get_all_records":
            return ok({"OpaqueRef:1": {"name_label": self.names.get("OpaqueRef:1", "x"), "VCPUs_max": "4",
                "is_a_template": False, "tags": ["a", "b"], "other_config": {"k<": "v&"},
                "snapshot_time": xmlrpc.client.DateTime("20250131T12:00:00")}})
        if method == "VM.set_name_label":
            self.names[params[1]] = params[2]
            return ok("")
        if method == "VM.set_memory_limits":
            assert params[2:] == ("1", "9007199254740993", "2", "3"), params
            return ok("")
        if method == "session.logout": return ok("")
        return {"Status": "Failure", "ErrorDescription": ["MESSAGE_METHOD_UNKNOWN", method]}
class Server(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True
server = Server(("127.0.0.1", 0), Handler, logRequests=False)
server.register_instance(Pool())
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn pythons_own_server_understands_us_and_we_it() {
    let started = Command::new("python3").arg("-c").arg(SCRIPT).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        println!("skipped: no python3");
        return;
    };
    let stdout = child.stdout.take().unwrap();
    let _python = Python(child);
    let mut port = String::new();
    BufReader::new(stdout).read_line(&mut port).unwrap();
    let url = format!("http://127.0.0.1:{}", port.trim());
    // Nothing says that it has no JSON-RPC but its 404.
    let client = Client::builder(url).build().unwrap();
    let session = client.login("root", "a<&>é", "test").await.unwrap();
    let one = Ref::new("OpaqueRef:1");
    let name = "tab\tquote\" ]]> <b>&amp; ünï";
    session.call(vm::set_name_label(&one, name)).await.unwrap();
    let vms = session.call(vm::get_all_records()).await.unwrap();
    let vm = &vms[&one];
    assert_eq!(vm.name_label, name);
    assert_eq!((vm.vcpus_max, vm.is_a_template), (4, false));
    assert_eq!(vm.tags, ["a", "b"]);
    assert_eq!(vm.other_config["k<"], "v&");
    assert_eq!(vm.snapshot_time.as_str(), "20250131T12:00:00");
    // Beyond 32 bits, and beyond what a float holds exactly.
    session.call(vm::set_memory_limits(&one, 1, 9_007_199_254_740_993, 2, 3)).await.unwrap();
    let e = session.call(vm::get_all()).await.unwrap_err();
    assert_eq!(e.code().unwrap().as_str(), "MESSAGE_METHOD_UNKNOWN");
    session.logout().await.unwrap();
}
