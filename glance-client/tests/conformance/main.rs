//! One set of expectations for every cloud: the simulator always, a real Keystone and Glance where
//! `MIGRATE_E2E_OPENSTACK=1` is set and `OS_CLOUD` or `OS_*` names one.

#![allow(clippy::unwrap_used)]

mod downloads;
mod help;
mod imports;
mod kit;
mod records;
mod sharing;

use glance_client::CloudConfig;
use glance_client::keystone::{Domain, Principal, Scope};
use simulator::openstack::{OpenStack, OpenStackConfig};

async fn simulated(config: OpenStackConfig) -> (OpenStack, CloudConfig) {
    let cloud = OpenStack::start(config).await.unwrap();
    let named = |name: &str| Principal::named(name, Domain::Name("Default".to_owned()));
    let config = CloudConfig::builder(cloud.auth_url())
        .with_password(named(cloud.config().username()), cloud.config().password())
        .with_scope(Scope::Project(named(cloud.config().project())))
        .build()
        .unwrap();
    (cloud, config)
}

/// The real cloud, or `None` with a word about it.
fn real() -> Option<CloudConfig> {
    if std::env::var_os("MIGRATE_E2E_OPENSTACK").is_none_or(|flag| flag != "1") {
        eprintln!("skipped: MIGRATE_E2E_OPENSTACK=1 and OS_* would run this against a real cloud");
        return None;
    }
    Some(CloudConfig::from_env().unwrap())
}

macro_rules! everywhere {
    ($($module:ident: { $($name:ident),* $(,)? })*) => {
        mod simulator_cloud {
            $($(#[tokio::test]
            async fn $name() {
                let (cloud, config) = super::simulated(super::OpenStackConfig::new()).await;
                super::$module::$name(&config).await;
                cloud.stop().await;
            })*)*
        }

        mod real_cloud {
            /// One at a time: a Glance on SQLite answers 500 ("database is locked") to writes that meet.
            static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

            $($(#[tokio::test]
            async fn $name() {
                if let Some(config) = super::real() {
                    let _alone = ALONE.lock().await;
                    super::$module::$name(&config).await;
                }
            })*)*
        }
    };
}

everywhere! {
    kit: {
        log_in_and_find_services,
        wrong_credentials_are_refused,
        a_revoked_token_is_replaced,
        a_token_is_exchanged_but_not_renewed,
        an_expired_token_is_replaced,
        application_credentials,
        images_are_made_changed_and_deleted,
        lists_come_in_pages,
        formats_are_known_before_anything_is_made,
        data_is_sent_verified_and_read_back,
        data_of_unknown_length_is_sent,
        an_empty_body_is_a_whole_image,
        a_short_body_leaves_a_queued_image_that_can_be_filled,
        a_size_over_the_cap_is_refused_while_sending,
        the_local_format_check_agrees_with_the_server,
        data_is_stored_or_nothing_is_left,
    }
    records: {
        lists_are_filtered_and_sorted,
        pages_keep_every_tag,
        tags_come_and_go,
        a_deactivated_image_is_not_read,
        a_protected_property_is_not_ours_to_change,
        others_see_what_is_for_them,
        a_cloud_tells_what_it_offers,
        quotas_count_what_is_there,
    }
    sharing: {
        an_image_is_shared_and_accepted,
        a_private_image_has_no_members,
    }
    downloads: {
        parts_are_read_by_range,
        a_broken_download_goes_on_where_it_broke,
        a_token_is_renewed_on_the_way_down,
        a_wrong_byte_is_found,
        a_cancelled_upload_leaves_a_queued_image,
        data_go_to_the_store_that_is_named,
    }
    imports: {
        staged_data_are_imported_into_two_stores,
        a_url_is_imported,
        an_image_is_copied_to_another_store,
        an_image_of_a_glance_is_imported,
        imports_that_cannot_be_are_refused,
        an_import_that_fails_says_so,
        staged_data_of_another_format_are_refused,
        data_stay_where_they_are,
    }
}

#[tokio::test]
async fn short_lived_tokens_of_the_simulator() {
    let config = OpenStackConfig::new().with_token_ttl(std::time::Duration::from_secs(2));
    let (cloud, config) = simulated(config).await;
    kit::an_expired_token_is_replaced(&config).await;
    cloud.stop().await;
}
