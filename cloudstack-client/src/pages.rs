//! Lists, read whole: page by page, in a size that the server allows.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, Stream};
use futures_util::{StreamExt, TryStreamExt};

use crate::call::{Call, List, Record};
use crate::client::Client;
use crate::error::{Error, Result};

/// Servers allow 500 by default, and an operator can set less.
pub(crate) const PAGE: u64 = 200;
/// More than any cloud has; an answer that goes on for so long is no list.
const MOST_PAGES: u64 = 1_000;

/// How often a list that has become shorter meanwhile is read.
const MOST_ROUNDS: u32 = 4;

/// A list that is being read.
struct Pages<R> {
    client: Client,
    call: Call<List<R>>,
    seen: HashSet<String>,
    size: u64,
    page: u64,
    /// How many elements have come in this round.
    taken: u64,
    /// How many there are, as the first page of this round said.
    count: Option<u64>,
    /// Whether a later page said that there are fewer, or fewer came: something was deleted on an earlier page, so that
    /// an element slipped there from a later one.
    shrunk: bool,
    /// How many new elements have come in this round.
    fresh: usize,
    round: u32,
    /// How many pages the longest round had.
    pages: u64,
    ended: bool,
}

impl<R: Record> Pages<R> {
    fn new(client: &Client, call: Call<List<R>>) -> Self {
        let size = client.page().load(Ordering::Relaxed);
        let (seen, client) = (HashSet::new(), client.clone());
        Self {
            client,
            call,
            seen,
            size,
            page: 1,
            taken: 0,
            count: None,
            shrunk: false,
            fresh: 0,
            round: 1,
            pages: 0,
            ended: false,
        }
    }

    /// What is new on the next page; `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<R>>> {
        if self.ended {
            return Ok(None);
        }
        // Only a list that ended well may be taken for one.
        self.ended = true;
        let (list, more) = if self.call.is_paged() {
            self.numbered().await?
        } else {
            (self.client.send(&self.call).await?, false)
        };
        let short = list.items.is_empty() && self.count.is_some_and(|count| self.taken < count);
        let fewer = list.count.zip(self.count).is_some_and(|(now, then)| now < then);
        self.shrunk |= short || fewer;
        let came = list.items.len();
        let items: Vec<R> =
            list.items.into_iter().filter(|item| self.seen.insert(item.key())).collect();
        self.fresh += items.len();
        // A page without anything new comes from a server that knows no pages; in a later round it is as it should be.
        let repeated = self.round == 1 && came > 0 && items.is_empty();
        let more = more && came > 0 && !repeated && (self.round == 1 || self.page <= self.pages);
        self.pages = self.pages.max(self.page);
        if more {
            self.page += 1;
            self.ended = false;
        } else if self.shrunk && !repeated && self.fresh > 0 && self.round < MOST_ROUNDS {
            (self.page, self.taken, self.count, self.shrunk, self.fresh) = (1, 0, None, false, 0);
            self.round += 1;
            self.ended = false;
        }
        Ok(Some(items))
    }

    /// The next page, and whether there may be another.
    async fn numbered(&mut self) -> Result<(List<R>, bool)> {
        if self.page > MOST_PAGES {
            return Err(Error::protocol(format!("{}: the list has no end", self.call.what())));
        }
        let list = loop {
            match self.client.send(&self.call.clone().with_page(self.page, self.size)).await {
                Ok(list) => break list,
                Err(error) => match smaller(&error, self.size) {
                    // Before the first page only: pages of another size begin elsewhere.
                    Some(smaller) if self.page == 1 => self.size = smaller,
                    _ => return Err(error),
                },
            }
        };
        self.client.page().fetch_min(self.size, Ordering::Relaxed);
        if self.page == 1 {
            self.count = list.count;
        }
        let came = list.items.len() as u64;
        self.taken = self.taken.saturating_add(came);
        // A full page may have a successor even if the count (which some lists count otherwise) is reached.
        let more = came >= self.size || list.count.is_some_and(|count| self.taken < count);
        Ok((list, more))
    }
}

impl Client {
    /// The elements of a list as they come, page by page; the next page is asked for when the elements of the one
    /// before have been taken. Elements that come twice because pages shift meanwhile are given once; if the list becomes
    /// shorter meanwhile, it is read again from its beginning for what has slipped to an earlier page.
    ///
    /// The size of a page starts at 200 and follows a server that allows less, which all later lists of this client know.
    ///
    /// ```
    /// # use simulator::cloudstack::{CloudStack, CloudStackConfig};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let server = CloudStack::start(CloudStackConfig::new().with_page_size(7)).await?;
    /// # let keys = cloudstack_client::Credentials::new(server.config().key(), server.config().secret());
    /// # let client = cloudstack_client::Client::builder(server.endpoint()).credentials(keys).build()?;
    /// use futures_util::TryStreamExt;
    ///
    /// let mut types = std::pin::pin!(client.stream(cloudstack_client::os_types::list()));
    /// let mut debian = 0;
    /// while let Some(os) = types.try_next().await? {
    ///     debian += u32::from(os.description.starts_with("Debian"));
    /// }
    /// assert!(debian > 7);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`call`](Self::call); nothing comes after an error.
    pub fn stream<R: Record + Send + 'static>(
        &self,
        call: Call<List<R>>,
    ) -> impl Stream<Item = Result<R>> + Send + 'static + use<R> {
        let pages = stream::try_unfold(Pages::new(self, call), async |mut pages| {
            Ok(pages.next().await?.map(|items| (items, pages)))
        });
        pages.map_ok(|items| stream::iter(items).map(Ok)).try_flatten()
    }

    /// All elements of a list, as [`stream`](Self::stream) gives them.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_all<R: Record>(&self, call: Call<List<R>>) -> Result<Vec<R>> {
        let (mut pages, mut all) = (Pages::new(self, call), Vec::new());
        while let Some(items) = pages.next().await? {
            all.extend(items);
        }
        Ok(all)
    }
}

/// The size of pages that a refusal allows, if that is what the refusal is about.
fn smaller(error: &Error, size: u64) -> Option<u64> {
    if error.code() != Some(431) {
        return None;
    }
    let text = error.to_string().to_ascii_lowercase();
    if !text.contains("pagesize") && !text.contains("page size") {
        return None;
    }
    // Everything but the code that stands in the text.
    let said = text.split_once("answered 431").map_or("", |(_, said)| said);
    let told = said
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .rfind(|number: &u64| (1..size).contains(number));
    told.or_else(|| (size > 10).then_some(size / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::failure;

    #[test]
    fn page_sizes_follow_the_refusal() {
        let size = |code, text: &str| smaller(&failure("zones: list", code, None, text), 200);
        assert_eq!(size(431, "Page size can not exceed max allowed value: 50"), Some(50));
        assert_eq!(size(431, "pagesize exceeds max"), Some(100));
        assert_eq!(size(431, "page size must be at most 500"), Some(100));
        assert_eq!(size(431, "Invalid parameter id"), None);
        assert_eq!(size(530, "pagesize 5"), None);
        assert_eq!(smaller(&failure("x", 431, None, "pagesize"), 10), None, "it ends");
    }
}
