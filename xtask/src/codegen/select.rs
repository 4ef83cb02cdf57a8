//! What is generated, and for whom: the classes that a migration needs, and of those the messages
//! it may need, are always there; the rest of the API comes with the feature `full`.

use super::model::{Class, Message};

/// When a class or a message is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Always.
    Always,
    /// With the feature `full`.
    Full,
}

/// The classes that are there without the feature `full`.
pub(crate) const CLASSES: &[&str] = &[
    "PBD",
    "PIF",
    "SR",
    "VBD",
    "VDI",
    "VIF",
    "VM",
    "VM_guest_metrics",
    "VM_metrics",
    "console",
    "event",
    "host",
    "network",
    "pool",
    "probe_result",
    "session",
    "sr_stat",
    "task",
    "vdi_nbd_server_info",
];

/// Getters of single fields that are worth a call of their own: what a wait loop polls, and what
/// is asked of one object only. Every other field is read from the record.
const GETTERS: &[(&str, &[&str])] = &[
    ("SR", &["get_uuid", "get_PBDs", "get_type"]),
    ("VDI", &["get_allowed_operations", "get_managed", "get_sm_config", "get_uuid", "get_SR"]),
    ("VBD", &["get_currently_attached", "get_VDI"]),
    (
        "VM",
        &["get_allowed_operations", "get_other_config", "get_power_state", "get_uuid", "get_VBDs"],
    ),
    ("VM_guest_metrics", &["get_networks"]),
    ("host", &["get_address", "get_software_version", "get_uuid"]),
    ("pool", &["get_master", "get_uuid"]),
    ("task", &["get_progress", "get_status", "get_allowed_operations"]),
];

/// Lookups that every class has.
const LOOKUPS: &[&str] =
    &["get_all", "get_all_records", "get_by_name_label", "get_by_uuid", "get_record"];

/// Classes of which only these messages (and the lookups) are always there.
const ONLY: &[(&str, &[&str])] = &[
    (
        "host",
        &[
            "add_to_other_config",
            "call_plugin",
            "compute_free_memory",
            "disable",
            "enable",
            "get_management_interface",
            "get_server_certificate",
            "get_server_localtime",
            "get_servertime",
            "has_extension",
            "list_methods",
            "remove_from_other_config",
            "set_other_config",
        ],
    ),
    (
        "pool",
        &[
            "add_tags",
            "add_to_other_config",
            "has_extension",
            "remove_from_other_config",
            "remove_tags",
            "set_default_SR",
            "set_other_config",
            "set_tags",
        ],
    ),
    // Logging in and out is the session's own work; a session reference is a credential.
    ("session", &["get_all_subject_identifiers"]),
    // Events have a shape of their own, read by hand.
    ("event", &[]),
];

/// Messages that serve the server's own parts, or have types of the feature `full`.
const RARE: &[&str] = &[
    "assert_can_be_recovered",
    "create_new_blob",
    "forget_data_source_archives",
    "get_data_sources",
    "import_convert",
    "introduce",
    "db_introduce",
    "pool_introduce",
    "query_data_source",
    "record_data_source",
    "recover",
    "retrieve_wlb_recommendations",
    "get_SRs_required_for_recovery",
    "call_host_plugin",
    "restart_device_models",
];

/// When a class is there; a removed one is not.
pub(crate) fn class(name: &str, class: &Class) -> Option<Tier> {
    match class.state.as_str() {
        "removed" => None,
        _ if CLASSES.contains(&name) => Some(Tier::Always),
        _ => Some(Tier::Full),
    }
}

/// When a message of a class is there; a removed one is not.
pub(crate) fn message(class: &str, name: &str, message: &Message) -> Option<Tier> {
    // The reference that these give is a credential; the session logs in by itself.
    let login = class == "session" && (name.contains("login") || name.contains("logout"));
    if message.state.as_deref() == Some("removed") || login {
        return None;
    }
    Some(if always(class, name, message) { Tier::Always } else { Tier::Full })
}

fn always(class: &str, name: &str, message: &Message) -> bool {
    if !CLASSES.contains(&class)
        || message.state.as_deref() == Some("deprecated")
        || RARE.contains(&name)
    {
        return false;
    }
    let listed = |table: &[(&str, &[&str])]| {
        table.iter().find(|(c, _)| *c == class).map(|(_, names)| names.contains(&name))
    };
    let lookup = LOOKUPS.contains(&name) && !matches!(class, "session" | "event");
    if lookup || listed(GETTERS) == Some(true) {
        return true;
    }
    if message.implicit && name.starts_with("get_") {
        return false;
    }
    listed(ONLY).unwrap_or(true)
}
