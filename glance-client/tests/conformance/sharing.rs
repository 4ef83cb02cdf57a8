//! Images that are shared between projects.

#![allow(clippy::unwrap_used)]

use glance_client::image::member::{self, MemberStatus};
use glance_client::image::{DownloadOptions, ListQuery, Visibility, get};
use glance_client::{CloudConfig, ErrorKind, Glance, Upload};

use super::help::{data, glance, glance_as, raw, read, remove, unique};

async fn sees(glance: &Glance, query: ListQuery, id: &str) -> bool {
    let images = glance.list_all(&query, 10_000).await.unwrap();
    images.iter().any(|image| image.id == id)
}

pub(crate) async fn an_image_is_shared_and_accepted(config: &CloudConfig) {
    let glance = glance(config).await;
    let Some(other) = glance_as(config, "other").await else { return };
    let project = other.session().current().project.clone().unwrap().id;
    let image = raw("shared").with_visibility(Visibility::Shared);
    let image = glance.create(&image).await.unwrap();
    let id = image.id.as_str();
    glance.upload(id, Upload::from_bytes(data(1000))).await.unwrap();
    assert!(other.call(get(id)).await.unwrap_err().is_not_found());

    let made = glance.call(member::add(id, &project)).await.unwrap();
    assert_eq!((made.image_id.as_str(), made.project.as_str()), (id, project.as_str()));
    assert_eq!(made.status, MemberStatus::Pending);
    assert!(made.created_at.is_some());
    let again = glance.call(member::add(id, &project)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict, "{again}");

    let shared = || ListQuery::new().with_visibility(&Visibility::Shared);
    other.call(get(id)).await.unwrap();
    assert!(!sees(&other, ListQuery::new(), id).await);
    assert!(sees(&other, shared().with_member_status(&MemberStatus::Pending), id).await);
    assert!(sees(&other, shared().with_member_status(&MemberStatus::All), id).await);
    // The owner may not answer, the member not add.
    let accepted = MemberStatus::Accepted;
    for error in [
        glance.call(member::answer(id, &project, &accepted)).await.unwrap_err(),
        other.call(member::add(id, &unique())).await.unwrap_err(),
        other.call(member::remove(id, &project)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    }
    let answered = other.call(member::answer(id, &project, &accepted)).await.unwrap();
    assert_eq!(answered.status, accepted);
    assert!(sees(&other, ListQuery::new(), id).await);
    let whole = other.download(id, &DownloadOptions::new()).await.unwrap();
    assert_eq!(read(whole).await.unwrap(), data(1000));

    // A second member is seen by the owner only.
    glance.call(member::add(id, &unique())).await.unwrap();
    assert_eq!(glance.call(member::list(id)).await.unwrap().len(), 2);
    let seen = other.call(member::list(id)).await.unwrap();
    assert_eq!(seen.iter().map(|member| &member.project).collect::<Vec<_>>(), [&project]);
    assert_eq!(glance.call(member::get(id, &project)).await.unwrap().status, accepted);
    assert!(glance.call(member::get(id, &unique())).await.unwrap_err().is_not_found());

    let rejected = member::answer(id, &project, &MemberStatus::Rejected);
    other.call(rejected).await.unwrap();
    assert!(!sees(&other, ListQuery::new(), id).await);
    let nonsense = member::answer(id, &project, &"perhaps".into());
    assert_eq!(other.call(nonsense).await.unwrap_err().kind(), ErrorKind::Invalid);
    glance.call(member::remove(id, &project)).await.unwrap();
    assert!(other.call(get(id)).await.unwrap_err().is_not_found());
    assert!(glance.call(member::remove(id, &project)).await.unwrap_err().is_not_found());
    remove(&glance, &[id]).await;
}

pub(crate) async fn a_private_image_has_no_members(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("private")).await.unwrap();
    for error in [
        glance.call(member::add(&image.id, &unique())).await.unwrap_err(),
        glance.call(member::list(&image.id)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    }
    remove(&glance, &[&image.id]).await;
}
