//! Lists of images: filters, order and pages.

use std::time::SystemTime;

use futures_util::stream::{self, BoxStream, StreamExt};
use http::Method;
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::member::MemberStatus;
use super::record::{ContainerFormat, DiskFormat, Image, ImageStatus, Visibility};
use crate::call::{Answer, Call, encode};
use crate::error::{Error, ErrorKind, Result};
use crate::keystone::ServiceClient;

/// Images as their pages arrive: the next page is asked for when the last one is used up.
pub type ImageStream = BoxStream<'static, Result<Image>>;

/// Which images, in which order, how many at once.
///
/// ```
/// use glance_client::image::{DiskFormat, ImageStatus, ListQuery, SortDirection, SortKey, list};
/// let query = ListQuery::new()
///     .with_statuses(&[ImageStatus::Active, ImageStatus::Deactivated])
///     .with_disk_format(&DiskFormat::Vhd)
///     .with_size_at_least(1 << 30)
///     .with_sort(SortKey::CreatedAt, SortDirection::Descending);
/// assert_eq!(
///     list(&query).path(),
///     "images?status=in%3Aactive%2Cdeactivated&disk_format=vhd&size_min=1073741824&sort=created_at%3Adesc"
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListQuery {
    /// The query parameters, in order.
    pub parameters: Vec<(String, String)>,
}

/// What a list can be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SortKey {
    /// The container format.
    ContainerFormat,
    /// When it was made.
    CreatedAt,
    /// The disk format.
    DiskFormat,
    /// The id.
    Id,
    /// The name.
    Name,
    /// The length of the data.
    Size,
    /// The status.
    Status,
    /// When it was changed.
    UpdatedAt,
}

impl SortKey {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ContainerFormat => "container_format",
            Self::CreatedAt => "created_at",
            Self::DiskFormat => "disk_format",
            Self::Id => "id",
            Self::Name => "name",
            Self::Size => "size",
            Self::Status => "status",
            Self::UpdatedAt => "updated_at",
        }
    }
}

/// Which end of an order comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SortDirection {
    /// The smallest, or the oldest, first.
    Ascending,
    /// The largest, or the newest, first.
    Descending,
}

/// How a time of an image is compared. Glance keeps whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compare {
    /// Later than.
    After,
    /// At or later than.
    AtOrAfter,
    /// At or earlier than.
    AtOrBefore,
    /// Earlier than.
    Before,
}

impl ListQuery {
    /// All images that the project sees, but hidden ones and those that others made `community`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those with this value of a field or property, as Glance's API has it: for what the other filters do not
    /// say. `name`, `id`, `status` and the formats take a value with a colon for an operator (`in:a,b`, `eq:a:b`).
    #[must_use]
    pub fn with_filter(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
        self.parameters.push((field.into(), value.into()));
        self
    }

    /// Only those with this name, whatever signs are in it.
    #[must_use]
    pub fn with_name(self, name: impl AsRef<str>) -> Self {
        self.with_filter("name", exactly(name.as_ref()))
    }

    /// Only those with one of these ids.
    #[must_use]
    pub fn with_ids<S: AsRef<str>>(self, ids: &[S]) -> Self {
        self.with_filter("id", any_of(ids.iter().map(AsRef::as_ref)))
    }

    /// Only those in this status.
    #[must_use]
    pub fn with_status(self, status: &ImageStatus) -> Self {
        self.with_filter("status", exactly(status.as_str()))
    }

    /// Only those in one of these statuses.
    #[must_use]
    pub fn with_statuses(self, statuses: &[ImageStatus]) -> Self {
        self.with_filter("status", any_of(statuses.iter().map(ImageStatus::as_str)))
    }

    /// Only those that are seen so. `community` images are listed only if they are asked for, `shared` ones of others
    /// only once they are [accepted](Self::with_member_status).
    #[must_use]
    pub fn with_visibility(self, visibility: &Visibility) -> Self {
        self.with_filter("visibility", visibility.as_str())
    }

    /// Also the `community` images of others.
    #[must_use]
    pub fn with_every_visibility(self) -> Self {
        self.with_filter("visibility", "all")
    }

    /// Only those of this project, by its id.
    #[must_use]
    pub fn with_owner(self, project: impl Into<String>) -> Self {
        self.with_filter("owner", project)
    }

    /// Of what others share with us: what we have answered so, and not only what we have accepted.
    #[must_use]
    pub fn with_member_status(self, status: &MemberStatus) -> Self {
        self.with_filter("member_status", status.as_str())
    }

    /// The hidden ones instead of the others.
    #[must_use]
    pub fn with_hidden(self, hidden: bool) -> Self {
        self.with_filter("os_hidden", hidden.to_string())
    }

    /// Only those that are protected, or that are not.
    #[must_use]
    pub fn with_protected(self, protected: bool) -> Self {
        self.with_filter("protected", protected.to_string())
    }

    /// Only those with this disk format.
    #[must_use]
    pub fn with_disk_format(self, format: &DiskFormat) -> Self {
        self.with_filter("disk_format", exactly(format.as_str()))
    }

    /// Only those with this container format.
    #[must_use]
    pub fn with_container_format(self, format: &ContainerFormat) -> Self {
        self.with_filter("container_format", exactly(format.as_str()))
    }

    /// Only those with at least so many bytes of data.
    #[must_use]
    pub fn with_size_at_least(self, bytes: u64) -> Self {
        self.with_filter("size_min", bytes.to_string())
    }

    /// Only those with at most so many bytes of data.
    #[must_use]
    pub fn with_size_at_most(self, bytes: u64) -> Self {
        self.with_filter("size_max", bytes.to_string())
    }

    /// Only those that were made then.
    #[must_use]
    pub fn with_created(self, compare: Compare, time: SystemTime) -> Self {
        self.with_filter("created_at", moment(compare, time))
    }

    /// Only those that were changed then.
    #[must_use]
    pub fn with_updated(self, compare: Compare, time: SystemTime) -> Self {
        self.with_filter("updated_at", moment(compare, time))
    }

    /// Only those with this tag; several tags must all be there.
    #[must_use]
    pub fn with_tag(self, tag: impl Into<String>) -> Self {
        self.with_filter("tag", tag)
    }

    /// Sorts; another key is for those that are equal in the first. Without any the newest comes first.
    #[must_use]
    pub fn with_sort(mut self, key: SortKey, direction: SortDirection) -> Self {
        let direction = match direction {
            SortDirection::Ascending => "asc",
            SortDirection::Descending => "desc",
        };
        let word = format!("{}:{direction}", key.as_str());
        match self.parameters.iter_mut().find(|(name, _)| name == "sort") {
            Some((_, sort)) => *sort = format!("{sort},{word}"),
            None => self.parameters.push(("sort".to_owned(), word)),
        }
        self
    }

    /// At most so many in one page (25); servers allow 1000 at most.
    #[must_use]
    pub fn with_limit(self, limit: u32) -> Self {
        self.with_filter("limit", limit.to_string())
    }

    /// Begins after the image with this id.
    #[must_use]
    pub fn with_marker(mut self, id: impl Into<String>) -> Self {
        self.parameters.retain(|(name, _)| name != "marker");
        self.with_filter("marker", id)
    }

    fn marker(&self) -> Option<&str> {
        let marker = self.parameters.iter().find(|(name, _)| name == "marker");
        marker.map(|(_, id)| id.as_str())
    }
}

/// A value that is not taken for one with an operator: `web: 1` is a 400 without it.
fn exactly(text: &str) -> String {
    if text.contains(':') { format!("eq:{text}") } else { text.to_owned() }
}

fn any_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    format!("in:{}", words.collect::<Vec<_>>().join(","))
}

fn moment(compare: Compare, time: SystemTime) -> String {
    let operator = match compare {
        Compare::After => "gt",
        Compare::AtOrAfter => "gte",
        Compare::AtOrBefore => "lte",
        Compare::Before => "lt",
    };
    // A time that no calendar has is past the end of every list.
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX);
    format!("{operator}:{}", time.strftime("%Y-%m-%dT%H:%M:%SZ"))
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImagePage {
    /// The images. One that cannot be read is left out.
    pub images: Vec<Image>,
    /// What the server says how to ask for the next part. Of a repeated parameter (two tags) it has kept only the last:
    /// [`Glance::images`](crate::Glance::images) takes the marker from it and asks its own question again.
    pub next: Option<ListQuery>,
}

/// Lists images: `GET /v2/images`, one page.
#[must_use]
pub fn list(query: &ListQuery) -> Call<ImagePage> {
    let pairs: Vec<_> = query
        .parameters
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    let path =
        if pairs.is_empty() { "images".to_owned() } else { format!("images?{}", pairs.join("&")) };
    Call::new("images: list", Method::GET, path, page)
}

fn page(answer: &Answer<'_>) -> Result<ImagePage> {
    let document: Value = answer.json()?;
    let list = document["images"].as_array().ok_or_else(|| {
        Error::protocol("images: list: the answer has no list")
            .with_answer(answer.status, answer.headers)
    })?;
    let images = list.iter().filter_map(|image| Image::from_json(image.clone()).ok()).collect();
    let next = document["next"].as_str().map(next_query).transpose()?;
    Ok(ImagePage { images, next })
}

/// The query of a `next` link. The link itself is never followed: it comes from the body, and the token would go
/// wherever it points.
fn next_query(link: &str) -> Result<ListQuery> {
    let refused =
        || Error::protocol("images: list: the link to the next page leads away from the list");
    let root = Url::parse("http://list.invalid/").map_err(|_| refused())?;
    let url = root.join(link).map_err(|_| refused())?;
    if url.origin() != root.origin() || !url.path().trim_end_matches('/').ends_with("/images") {
        return Err(refused());
    }
    let pairs = form_urlencoded::parse(url.query().unwrap_or_default().as_bytes());
    Ok(ListQuery {
        parameters: pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
    })
}

/// Where a list stands.
struct Cursor {
    client: ServiceClient,
    query: Option<ListQuery>,
    page: std::vec::IntoIter<Image>,
    /// How many pages there were, and the marker of one of them: a circle comes back to it (Brent's way).
    pages: u64,
    seen: Option<String>,
}

impl Cursor {
    /// Goes on to the page after `page`.
    fn advance(&mut self, query: &ListQuery, page: &ImagePage) -> Result<()> {
        self.query = follow(query, page)?;
        let marker = self.query.as_ref().and_then(ListQuery::marker);
        if marker.is_some() && marker == self.seen.as_deref() {
            return Err(endless());
        }
        self.pages += 1;
        if self.pages.is_power_of_two() {
            self.seen = marker.map(str::to_owned);
        }
        Ok(())
    }
}

/// All images of `query`, page after page.
pub(crate) fn images(client: &ServiceClient, query: &ListQuery) -> ImageStream {
    let cursor = Cursor {
        client: client.clone(),
        query: Some(query.clone()),
        page: Vec::new().into_iter(),
        pages: 0,
        seen: None,
    };
    stream::try_unfold(cursor, |mut cursor| async move {
        loop {
            if let Some(image) = cursor.page.next() {
                return Ok(Some((image, cursor)));
            }
            let Some(query) = cursor.query.take() else { return Ok(None) };
            let page = cursor.client.call(list(&query)).await?;
            cursor.advance(&query, &page)?;
            cursor.page = page.images.into_iter();
        }
    })
    .boxed()
}

fn endless() -> Error {
    Error::new(ErrorKind::Protocol, "images: list: the pages do not come to an end")
}

/// The same question from where the page ends.
fn follow(query: &ListQuery, page: &ImagePage) -> Result<Option<ListQuery>> {
    let Some(next) = &page.next else { return Ok(None) };
    let marker = next.marker().ok_or_else(endless)?;
    if page.images.is_empty() || query.marker() == Some(marker) {
        return Err(endless());
    }
    Ok(Some(query.clone().with_marker(marker)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};
    use serde_json::json;
    use std::time::Duration;

    fn path(query: &ListQuery) -> String {
        list(query).path().to_owned()
    }

    #[test]
    fn typed_filters_are_the_words_of_the_api() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_900);
        let query = ListQuery::new()
            .with_ids(&["1", "2"])
            .with_status(&ImageStatus::Active)
            .with_visibility(&Visibility::Shared)
            .with_member_status(&MemberStatus::Pending)
            .with_owner("p1")
            .with_hidden(true)
            .with_protected(false)
            .with_container_format(&ContainerFormat::Bare)
            .with_size_at_most(9)
            .with_created(Compare::AtOrAfter, time)
            .with_updated(Compare::Before, time);
        assert_eq!(
            path(&query),
            "images?id=in%3A1%2C2&status=active&visibility=shared&member_status=pending&owner=p1&os_hidden=true\
             &protected=false&container_format=bare&size_max=9&created_at=gte%3A2001-09-09T01%3A46%3A40Z\
             &updated_at=lt%3A2001-09-09T01%3A46%3A40Z"
        );
        assert_eq!(path(&ListQuery::new().with_every_visibility()), "images?visibility=all");
    }

    #[test]
    fn a_name_with_a_colon_is_no_operator() {
        assert_eq!(path(&ListQuery::new().with_name("web: 1")), "images?name=eq%3Aweb%3A%201");
        assert_eq!(path(&ListQuery::new().with_name("in:a,b")), "images?name=eq%3Ain%3Aa%2Cb");
        assert_eq!(path(&ListQuery::new().with_name("web 1")), "images?name=web%201");
    }

    #[test]
    fn sort_keys_are_one_parameter_and_the_marker_is_one() {
        let query = ListQuery::new()
            .with_sort(SortKey::Name, SortDirection::Ascending)
            .with_limit(2)
            .with_sort(SortKey::Size, SortDirection::Descending)
            .with_marker("1")
            .with_marker("2");
        assert_eq!(path(&query), "images?sort=name%3Aasc%2Csize%3Adesc&limit=2&marker=2");
    }

    #[test]
    fn the_next_page_is_asked_for_with_every_tag_and_only_forwards() {
        let query = ListQuery::new().with_tag("a").with_tag("b").with_limit(1);
        let page = |next: &str| {
            let mut page =
                ImagePage { next: Some(next_query(next).unwrap()), ..ImagePage::default() };
            page.images.push(Image::from_json(json!({"id": "1"})).unwrap());
            page
        };
        let next = follow(&query, &page("/v2/images?tag=b&limit=1&marker=1")).unwrap().unwrap();
        assert_eq!(path(&next), "images?tag=a&tag=b&limit=1&marker=1");
        assert!(follow(&next, &page("/v2/images?marker=1")).is_err());
        assert!(follow(&query, &page("/v2/images?limit=1")).is_err());
        let mut empty = page("/v2/images?marker=1");
        empty.images.clear();
        assert!(follow(&query, &empty).is_err());
        assert!(follow(&query, &ImagePage::default()).unwrap().is_none());
    }

    #[test]
    fn a_list_is_asked_and_continued() {
        let query = ListQuery::new().with_name("a b&c").with_tag("run:1").with_limit(2);
        assert_eq!(list(&query).path(), "images?name=a%20b%26c&tag=run%3A1&limit=2");
        assert_eq!(list(&ListQuery::new()).path(), "images");

        let parse = |body: Value| {
            list(&ListQuery::new()).parse(
                StatusCode::OK,
                &HeaderMap::new(),
                body.to_string().as_bytes(),
            )
        };
        let page = parse(json!({"images": [{"id": "1"}, {"no": "id"}, {"id": "2"}],
            "next": "/v2/images?marker=2&limit=2&name=a+b%26c"}))
        .unwrap();
        assert_eq!(page.images.len(), 2);
        assert_eq!(list(&page.next.unwrap()).path(), "images?marker=2&limit=2&name=a%20b%26c");
        assert!(parse(json!({"images": []})).unwrap().next.is_none());
        assert!(
            parse(json!({"images": [], "next": "/image/v2/images?marker=1"}))
                .unwrap()
                .next
                .is_some()
        );

        for hostile in [
            "http://evil/v2/images?marker=1",
            "//evil/v2/images",
            "/v2/images/../../admin",
            "/v2/tasks",
            "ht!tp:\\",
        ] {
            let error = parse(json!({"images": [], "next": hostile})).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{hostile}");
        }
        assert_eq!(parse(json!({"wrong": 1})).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
