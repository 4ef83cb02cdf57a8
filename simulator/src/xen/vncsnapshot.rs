//! `GET /vncsnapshot`: what a guest's screen shows, as a JPEG.

use std::io;

use jpeg_encoder::{ColorType, Encoder};
use tokio::io::AsyncWriteExt;

use super::console::{find, is_empty, runs_here, without_body};
use super::desk::{GREY, Screen};
use super::export::{authenticate, injected, refuse, turn_away};
use super::http::{Conn, Head};
use super::pool::Pool;
use super::role::Role;
use super::serve::Host;
use super::value::ApiError;

/// What the program that takes it on the server has for a default.
const QUALITY: u8 = 75;

/// Answers the request; the connection ends with it.
pub(crate) async fn serve(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let pool = &host.pool;
    let task = head.task();
    if let Err(error) = authenticate(pool, head, Role::VmOperator) {
        return turn_away(pool, conn, task, error).await;
    }
    let found = find(pool, head);
    // No host redirects to the one where the guest runs.
    if found.as_ref().is_some_and(|(place, _)| !runs_here(pool, host.index, &place.vm)) {
        pool.finish_task(task, Ok("".into()));
        return without_body(conn, "HTTP/1.1 404 Not Found").await;
    }
    let taken = match found {
        None => Err(ApiError::new("INTERNAL_ERROR", ["Console.Failure"])),
        // What looks at the screen for the server cannot, or there is no screen yet.
        Some((place, protocol)) if protocol != "rfb" || is_empty(pool, &place.vm) => {
            Err(injected())
        }
        Some((place, _)) => take(pool, &place.vm),
    };
    let picture = match taken {
        Ok(picture) => picture,
        Err(error) => {
            pool.finish_task(task, Err(error));
            return refuse(conn, "HTTP/1.1", "500 Internal Error", &[]).await;
        }
    };
    let number = uuid::Uuid::new_v4().as_u128() & 0xff_ffff;
    // There is no content type.
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\
         Content-Disposition: attachment; filename=\"snapshot{number:06x}.jpg\"\r\n\
         Content-Length: {}\r\n\r\n",
        picture.len()
    );
    conn.write_all(&[head.into_bytes(), picture].concat()).await?;
    conn.flush().await?;
    pool.finish_task(task, Ok("".into()));
    Ok(())
}

fn take(pool: &Pool, vm: &str) -> Result<Vec<u8>, ApiError> {
    let (width, height) = Screen::size();
    let pixels = pool.with(|state| {
        let screen = &state.desk(vm).screen;
        let all = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let lit = all.map(|(x, y)| if screen.is_lit(x, y) { GREY } else { 0 });
        lit.flat_map(|grey| [grey; 3]).collect::<Vec<_>>()
    });
    let failed = |error: String| ApiError::new("INTERNAL_ERROR", [&error]);
    let side = |n: usize| u16::try_from(n).map_err(|e| failed(e.to_string()));
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, QUALITY)
        .encode(&pixels, side(width)?, side(height)?, ColorType::Rgb)
        .map_err(|error| failed(error.to_string()))?;
    Ok(jpeg)
}
