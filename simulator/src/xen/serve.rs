//! A host of the pool: its listener, its connections, its routes.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::audit;
use super::blob;
use super::console;
use super::dispatch::{self, Reply};
use super::export;
use super::http::{BadRequest, Conn, Head, page, respond};
use super::import;
use super::json::{self, Quirks};
use super::metrics;
use super::others;
use super::ova;
use super::pool::Pool;
use super::value::{ApiError, ApiResult, text, truth};
use super::vncsnapshot;
use super::xml;
use super::xva;

/// What is served to `GET` here; the rest of what the server has is in [`others`].
const HANDLERS: &[&str] = &[
    "/export_raw_vdi",
    "/export",
    "/export_metadata",
    "/blob",
    "/audit_log",
    "/console",
    "/vncsnapshot",
    "/rrd_updates",
    "/host_rrd",
    "/vm_rrd",
    "/sr_rrd",
];

/// One host of the pool.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) pool: Arc<Pool>,
    /// Its number; 0 is the master at first.
    pub(crate) index: usize,
    /// True ends every connection and every listener.
    pub(crate) gone: Arc<watch::Sender<bool>>,
}

impl Host {
    /// Where raw handlers redirect to, if this host does not serve them.
    pub(crate) fn redirect_target(&self, wanted: bool) -> Option<String> {
        if wanted && self.index == 0 { self.url_of(1) } else { None }
    }

    /// Where storage is plugged, if not at this host.
    pub(crate) fn who_sees(&self, sr: &str) -> Option<String> {
        let seeing = self.pool.with(|state| {
            let plugged = state.db.referrers("PBD", "SR", sr).into_iter().filter_map(|pbd| {
                let record = state.db.raw("PBD", &pbd).ok()?;
                let host = state.hosts.iter().position(|host| host == text(record, "host"))?;
                truth(record, "currently_attached").then_some(host)
            });
            plugged.collect::<Vec<_>>()
        });
        let other = seeing.first().filter(|_| !seeing.contains(&self.index))?;
        self.url_of(*other)
    }

    /// The URL of another host.
    pub(crate) fn url_of(&self, index: usize) -> Option<String> {
        let other = self.pool.hosts.get(index).filter(|_| index != self.index)?;
        let scheme = if other.certificate.is_some() { "https" } else { "http" };
        Some(format!("{scheme}://127.0.0.1:{}", other.port))
    }

    /// The whole pool disappears from the network.
    pub(crate) fn go(&self) {
        self.gone.send_replace(true);
    }

    /// Accepts connections until the pool is gone.
    pub(crate) async fn listen(self, listener: TcpListener, tls: Option<TlsAcceptor>) {
        let mut gone = self.gone.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = gone.wait_for(|gone| *gone) => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((tcp, _)) = accepted else {
                // Out of descriptors, most likely: give the others time to end.
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            };
            let (host, tls, mut gone) = (self.clone(), tls.clone(), self.gone.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    _ = gone.wait_for(|gone| *gone) => {}
                    () = host.connection(tcp, tls) => {}
                }
            });
        }
    }

    async fn connection(&self, tcp: TcpStream, tls: Option<TlsAcceptor>) {
        let _ = tcp.set_nodelay(true);
        let mut conn = match tls {
            None => Conn::Plain(tcp),
            Some(tls) => match tls.accept(tcp).await {
                Ok(stream) => Conn::Tls(Box::new(stream)),
                Err(_) => return,
            },
        };
        let mut buffer = BytesMut::new();
        loop {
            match self.request(&mut conn, &mut buffer).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(BadRequest::Closed) => return,
                Err(BadRequest::Status(status)) => {
                    let _ = answer_page(&mut conn, status).await;
                    break;
                }
            }
        }
        let _ = conn.shutdown().await;
    }

    /// Serves one request; false ends the connection.
    async fn request(&self, conn: &mut Conn, buffer: &mut BytesMut) -> Result<bool, BadRequest> {
        let head = Head::read(conn, buffer).await?;
        match head.method.as_str() {
            "POST" => self.post(conn, buffer, &head).await,
            "GET" => {
                self.get(conn, buffer, &head).await.map_err(|_| BadRequest::Closed)?;
                Ok(false)
            }
            "CONNECT" if head.path == "/console" => {
                self.pool.with(|state| state.calls.push("CONNECT /console".to_owned()));
                let served = console::serve(self, conn, &head, buffer).await;
                served.map_err(|_| BadRequest::Closed)?;
                Ok(false)
            }
            "PUT"
                if matches!(
                    head.path.as_str(),
                    "/import" | "/import_metadata" | "/import_raw_vdi"
                ) =>
            {
                self.pool.with(|state| state.calls.push(format!("PUT {}", head.path)));
                let served = import::serve(self, conn, &head, buffer).await;
                served.map_err(|_| BadRequest::Closed)?;
                Ok(false)
            }
            "PUT" if head.path == "/blob" => {
                self.pool.with(|state| state.calls.push("PUT /blob".to_owned()));
                let served = blob::serve(self, conn, &head, buffer).await;
                served.map_err(|_| BadRequest::Closed)?;
                Ok(false)
            }
            "PUT" | "OPTIONS" => {
                others::serve(self, conn, &head).await.map_err(|_| BadRequest::Closed)?;
                Ok(false)
            }
            _ => Err(BadRequest::Status("501 Method Not Implemented")),
        }
    }

    async fn get(&self, conn: &mut Conn, buffer: &mut BytesMut, head: &Head) -> io::Result<()> {
        let path = head.path.as_str();
        if path == "/" {
            return answer_page(conn, "200 OK").await;
        }
        if !HANDLERS.contains(&path) {
            return others::serve(self, conn, head).await;
        }
        self.pool.with(|state| state.calls.push(format!("GET {path}")));
        match path {
            "/export_raw_vdi" => export::serve(self, conn, head).await,
            "/export" => xva::serve(self, conn, head).await,
            "/export_metadata" => ova::serve(self, conn, head).await,
            "/blob" => blob::serve(self, conn, head, buffer).await,
            "/audit_log" => audit::serve(self, conn, head).await,
            "/console" => console::upgrade(self, conn, head, buffer).await,
            "/vncsnapshot" => vncsnapshot::serve(self, conn, head).await,
            _ => metrics::serve(self, conn, head).await,
        }
    }

    /// Calls. Every path that is not known to speak JSON speaks XML-RPC.
    async fn post(
        &self,
        conn: &mut Conn,
        buffer: &mut BytesMut,
        head: &Head,
    ) -> Result<bool, BadRequest> {
        let body = head.body(conn, buffer).await?;
        let malformed = BadRequest::Status("500 Internal Error");
        let plan = self.pool.faults.plan();
        let (kind, text, failure) = if head.path == "/jsonrpc" && plan.no_json {
            let error = ApiError::new("INTERNAL_ERROR", ["XML is expected"]);
            ("text/xml", xml::write(&Err(error), false), None)
        } else if head.path == "/jsonrpc" {
            let mut call = json::parse(&body).ok_or(malformed)?;
            let params = std::mem::take(&mut call.params);
            let Some(result) = self.call(&call.method, params).await else { return Ok(false) };
            let quirks = Quirks {
                duplicate_keys: plan.duplicate_keys,
                bare_array_error: plan.bare_array_error,
            };
            ("application/json", json::write(&call, &result, quirks), result.err())
        } else {
            let call = xml::parse(&body).ok_or(malformed)?;
            let Some(result) = self.call(&call.method, call.params).await else {
                return Ok(false);
            };
            let bare = call.method == "system.listMethods";
            ("text/xml", xml::write(&result, bare), result.err())
        };
        let keep = head.keep_alive();
        let connection = if keep { "connection: keep-alive" } else { "connection: close" };
        let kind = format!("content-type: {kind}");
        let thumbprint = failure.and_then(|error| self.thumbprint(head, &error));
        let mut headers = vec![
            connection,
            "cache-control: no-cache, no-store",
            kind.as_str(),
            "Access-Control-Allow-Origin: *",
        ];
        headers.extend(thumbprint.as_deref());
        let sent = respond(conn, "HTTP/1.1 200 OK", &headers, text.as_bytes()).await;
        sent.map_err(|_| BadRequest::Closed)?;
        Ok(keep)
    }

    /// `None` when a fault swallows the answer.
    async fn call(&self, method: &str, params: Vec<super::value::Value>) -> Option<ApiResult> {
        match dispatch::call(&self.pool, self.index, method, params).await {
            Reply::Value(result) => Some(result),
            Reply::Dropped => None,
        }
    }

    /// A pinning client may ask for the master's certificate before it follows to it.
    fn thumbprint(&self, head: &Head, error: &ApiError) -> Option<String> {
        if error.code != "HOST_IS_SLAVE" {
            return None;
        }
        let wanted = head.header("x-xenapi-request-host-certificate-thumbprint")?;
        let master = self.pool.with(|state| state.master);
        let certificate = self.pool.hosts.get(master)?.certificate.as_ref()?;
        (wanted == "sha-256:master").then(|| {
            let value = &certificate.sha256;
            format!("x-xenapi-response-host-certificate-thumbprint: {value}")
        })
    }
}

async fn answer_page(conn: &mut Conn, status: &str) -> io::Result<()> {
    let headers = ["connection: close", "content-type: text/html"];
    respond(conn, &format!("HTTP/1.1 {status}"), &headers, &page(status)).await
}
