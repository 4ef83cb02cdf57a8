//! What the doubles' servers share: listening on loopback, and the connections of the clouds.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long the body of a request that was answered early is still read, so that the client
/// finds the answer and not a reset connection.
const LINGER: Duration = Duration::from_secs(2);

/// Listens on 127.0.0.1 for the double of `server`; port 0 takes a free one.
pub(crate) async fn listen(server: &str, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        let text =
            format!("{server} cannot listen on 127.0.0.1:{port}: {error}; 0 takes a free port");
        io::Error::new(error.kind(), text)
    })
}

/// The server ends the connection without an answer.
#[derive(Debug)]
pub(crate) struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is dropped on purpose")
    }
}

impl std::error::Error for Hangup {}

/// Accepts, and answers requests with `answer`, until the task that runs it is ended, which ends
/// the connections as well. A request that is being answered ends when `stopped` is true.
pub(crate) async fn serve<A, F, B>(
    listener: TcpListener,
    http: http1::Builder,
    stopped: watch::Receiver<bool>,
    answer: A,
) where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, Hangup>> + Send + 'static,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (answer, stopped) = (answer.clone(), stopped.clone());
                    let answer = move |request| whole(answer(request), stopped.clone());
                    drop(connections.spawn(connection(stream, http.clone(), answer)));
                }
                // Out of file handles, say: try again, but do not spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection<A, F, B>(stream: TcpStream, mut http: http1::Builder, answer: A)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Hangup>>,
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + 'static,
{
    let _ = stream.set_nodelay(true);
    let http = http.timer(TokioTimer::new()).half_close(true);
    // An error here is the client's doing or a fault's: one of `answer` makes hyper drop the
    // connection.
    let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

/// Runs in a task of its own: when the client hangs up, hyper drops this future, but a request
/// that has begun still comes to its end, as in a server with one thread per request.
async fn whole<T: Send + 'static>(
    answer: impl Future<Output = Result<T, Hangup>> + Send + 'static,
    mut stopped: watch::Receiver<bool>,
) -> Result<T, Hangup> {
    let work = tokio::spawn(async move {
        tokio::select! {
            answered = answer => answered,
            _ = stopped.wait_for(|stopped| *stopped) => Err(Hangup),
        }
    });
    work.await.unwrap_or(Err(Hangup))
}

/// Reads what is left of a body for a while, behind the answer.
pub(crate) fn drain(mut body: Incoming, mut stopped: watch::Receiver<bool>) {
    tokio::spawn(async move {
        let drain = async { while let Some(Ok(_)) = body.frame().await {} };
        tokio::select! {
            () = drain => {}
            () = tokio::time::sleep(LINGER) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    });
}

/// The decoded pairs of a query or of a form; a bare name has an empty value.
pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
