//! From data to an image that was compared: repeated where that does no harm, and nothing left where it failed.

use std::time::Duration;

use super::call::{NewImage, create, delete, get};
use super::record::{Image, ImageStatus};
use super::upload::{Upload, Uploaded, upload};
use super::verify::{Digests, verify};
use super::wait::{WaitOptions, wait};
use crate::error::{Error, ErrorKind, Result};
use crate::keystone::ServiceClient;
use crate::poll::{Limit, Seen, poll};

/// How often data is sent, and what becomes of an image whose data did not arrive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreOptions {
    /// How often the data is sent at most (3). More than once only if it can be made again.
    pub attempts: u32,
    /// The pause before the data is sent again (2 s); it doubles each time. A server that asks for a longer one by
    /// `Retry-After` gets it, up to a minute.
    pub pause: Duration,
    /// Whether an image that was made for the data stays where they did not arrive. It is deleted otherwise.
    pub keep_failed: bool,
    /// How to wait for the image once the data was sent. Without a flag of its own that of the
    /// [upload](Upload::with_cancel) ends it.
    pub wait: WaitOptions,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            pause: Duration::from_secs(2),
            keep_failed: false,
            wait: WaitOptions::default(),
        }
    }
}

impl StoreOptions {
    /// How often the data is sent at most; 0 is taken for 1.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The pause before the data is sent again; it doubles each time.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Whether an image stays whose data did not arrive.
    #[must_use]
    pub fn with_keep_failed(mut self, keep: bool) -> Self {
        self.keep_failed = keep;
        self
    }

    /// How to wait for the image once the data was sent.
    #[must_use]
    pub fn with_wait(mut self, wait: WaitOptions) -> Self {
        self.wait = wait;
        self
    }
}

/// An active image with the data that was sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stored {
    /// The image as Glance shows it.
    pub image: Image,
    /// The number of bytes.
    pub bytes: u64,
    /// The digests of what was sent.
    pub digests: Digests,
    /// The name of the digest that was compared with Glance's.
    pub compared: String,
    /// How often the data was sent.
    pub attempts: u32,
}

/// Makes an image and fills it; deletes it if that fails.
pub(crate) async fn store(
    client: &ServiceClient,
    image: &NewImage,
    upload: Upload,
    options: &StoreOptions,
) -> Result<Stored> {
    let id = make(client, image).await?.id;
    let error = match fill(client, &id, upload, options).await {
        Ok(stored) => return Ok(stored),
        Err(error) => error,
    };
    if options.keep_failed {
        return Err(error.with_hint(&format!("image {id} was left as it is")));
    }
    Err(match client.call(delete(&id)).await {
        Ok(()) => error,
        Err(gone) if gone.is_not_found() => error,
        Err(other) => {
            error.with_hint(&format!("image {id} is left and could not be deleted ({other})"))
        }
    })
}

/// Makes an image. Where the answer was lost, one that has the chosen id is the one that was made.
async fn make(client: &ServiceClient, image: &NewImage) -> Result<Image> {
    let error = match client.call(create(image)).await {
        Ok(image) => return Ok(image),
        Err(error) => error,
    };
    let (true, Some(id)) = (error.is_retryable(), &image.id) else { return Err(error) };
    match client.call(get(id)).await {
        Ok(found)
            if found.status == ImageStatus::Queued
                && found.name.as_deref() == Some(image.name.as_str()) =>
        {
            Ok(found)
        }
        Err(missing) if missing.is_not_found() => client.call(create(image)).await,
        _ => Err(error),
    }
}

/// Sends data into a queued image until it is active and the same; the image stays whatever happens.
pub(crate) async fn fill(
    client: &ServiceClient,
    id: &str,
    upload: Upload,
    options: &StoreOptions,
) -> Result<Stored> {
    let mut upload = upload.with_digests();
    let mut options = options.clone();
    let pace = &mut options.wait.pace;
    pace.cancel = pace.cancel.take().or_else(|| upload.cancel());
    let options = &options;
    let pace = &options.wait.pace;
    let what = format!("image {id}");
    let mut pause = options.pause;
    let mut attempt = 1;
    let (image, sent, attempts) = loop {
        let error = match sent(client, id, &mut upload, options).await {
            Ok((image, sent)) => break (image, sent, attempt),
            Err(error) => error,
        };
        // Data that went out whole to a proxy may begin to arrive after the proxy has given up on them.
        let overtaken = attempt > 1 && error.is_conflict() && upload.whole().is_some();
        let times = if overtaken { attempt - 1 } else { attempt };
        let told = |error: Error| match times {
            1 => error,
            _ => error.with_hint(&format!("the data was sent {times} times")),
        };
        if !overtaken && !worth_repeating(&error) {
            return Err(told(error));
        }
        match settled(client, id, options, upload.whole().is_some()).await? {
            // Only the answer was lost, or came late.
            Some(image) if image.status == ImageStatus::Active => match upload.whole() {
                Some(sent) => break (image, sent.clone(), times),
                None => return Err(told(error)),
            },
            // With a store Glance still holds refused data, and no other can follow.
            Some(image)
                if image.status == ImageStatus::Queued
                    && image.stores.is_empty()
                    && upload.can_repeat()
                    && attempt < options.attempts => {}
            _ => return Err(told(error)),
        }
        pace.sleep(error.pause(pause), &what).await?;
        pause = pause.saturating_mul(2);
        attempt += 1;
    };
    let Uploaded { bytes, mut digests, .. } = sent;
    pace.unless_cancelled(&what, complete(&mut digests, &image, &mut upload)).await??;
    let compared = verify(&image, &digests, bytes)?;
    Ok(Stored { image, bytes, digests, compared, attempts })
}

/// Adds the digest that the cloud has, if it is none of those that were computed and can be had.
async fn complete(digests: &mut Digests, image: &Image, upload: &mut Upload) -> Result<()> {
    if let Some(algorithm) = digests.missing(image)
        && let Some(hex) = upload.digest_again(&image.id, algorithm).await?
    {
        digests.add(algorithm, hex);
    }
    Ok(())
}

/// One upload, and the wait for what comes of it.
async fn sent(
    client: &ServiceClient,
    id: &str,
    data: &mut Upload,
    options: &StoreOptions,
) -> Result<(Image, Uploaded)> {
    let sent = upload(client, id, data).await?;
    Ok((wait(client, id, &options.wait).await?, sent))
}

/// Whether another attempt can end better: the connection or the server failed, or Glance lost the data after it had
/// taken them. What Glance says of the data themselves it says again.
fn worth_repeating(error: &Error) -> bool {
    error.is_retryable() || (error.kind() == ErrorKind::Failed && error.status().is_none())
}

/// The image once the server has noticed that an upload has ended; an error only if it is no longer waited for.
async fn settled(
    client: &ServiceClient,
    id: &str,
    options: &StoreOptions,
    is_whole: bool,
) -> Result<Option<Image>> {
    let look = || async {
        let image = client.call(get(id)).await?;
        Ok(match image.status {
            ImageStatus::Saving => Seen::Pending(image.status.to_string()),
            _ => Seen::Done(image),
        })
    };
    // A server that has all of the data may be busy with them; one that has not only has to notice.
    let longest = if is_whole { Duration::MAX } else { Duration::from_secs(120) };
    let limit = Limit::InAll(options.wait.timeout.min(longest));
    let what = format!("image {id}");
    match poll(&options.wait.pace, limit, &what, look, str::to_owned).await {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_repeated() {
        for (kind, again) in [
            (ErrorKind::Transport, true),
            (ErrorKind::Server, true),
            (ErrorKind::Timeout, true),
            (ErrorKind::Failed, true),
            (ErrorKind::UnsupportedFormat, false),
            (ErrorKind::TooLarge, false),
            (ErrorKind::Conflict, false),
            (ErrorKind::Source, false),
            (ErrorKind::Mismatch, false),
            (ErrorKind::Cancelled, false),
            (ErrorKind::Forbidden, false),
        ] {
            assert_eq!(worth_repeating(&Error::new(kind, "x")), again, "{kind:?}");
        }
    }
}
