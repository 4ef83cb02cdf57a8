//! Listening on loopback, with errors that say for whom.

use std::io;

use tokio::net::TcpListener;

/// Listens on 127.0.0.1 for the double of `server`; port 0 takes a free one.
pub(crate) async fn listen(server: &str, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| {
        let text =
            format!("{server} cannot listen on 127.0.0.1:{port}: {error}; 0 takes a free port");
        io::Error::new(error.kind(), text)
    })
}
