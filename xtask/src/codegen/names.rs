//! Names: from the API's to Rust's, and from code names of releases to products.

/// Words that cannot be an identifier as they are.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn",
    "else", "enum", "extern", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "static",
    "struct", "trait", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where",
    "while", "yield",
];

/// Code names of releases and the product versions that carried them.
const RELEASES: &[(&str, &str)] = &[
    ("rio", "XenServer 4.0"),
    ("miami", "XenServer 4.1"),
    ("symc", "XenServer 4.1"),
    ("orlando", "XenServer 5.0"),
    ("orlando-update-1", "XenServer 5.0 update 1"),
    ("george", "XenServer 5.5"),
    ("midnight-ride", "XenServer 5.6"),
    ("cowley", "XenServer 5.6 FP1"),
    ("boston", "XenServer 6.0"),
    ("tampa", "XenServer 6.1"),
    ("clearwater", "XenServer 6.2"),
    ("vgpu-productisation", "XenServer 6.2 SP1"),
    ("clearwater-felton", "XenServer 6.2 SP1"),
    ("creedence", "XenServer 6.5"),
    ("cream", "XenServer 6.5 SP1"),
    ("indigo", "XenServer 6.5 SP1"),
    ("dundee", "XenServer 7.0"),
    ("ely", "XenServer 7.1"),
    ("falcon", "XenServer 7.2"),
    ("inverness", "XenServer 7.3"),
    ("jura", "XenServer 7.4"),
    ("kolkata", "XenServer 7.5"),
    ("lima", "XenServer 7.6"),
    ("naples", "Citrix Hypervisor 8.0"),
    ("quebec", "Citrix Hypervisor 8.1"),
    ("stockholm", "Citrix Hypervisor 8.2"),
    ("stockholm_psr", "Citrix Hypervisor 8.2 CU1"),
];

/// A field, parameter or module name.
pub(crate) fn snake(name: &str) -> String {
    let lower = name.to_lowercase().replace('-', "_");
    if KEYWORDS.contains(&lower.as_str()) { format!("r#{lower}") } else { lower }
}

/// A function name: as [`snake`], with the verbs `async_` and `_with` put around by the caller.
pub(crate) fn function(name: &str) -> String {
    snake(name)
}

/// A module name: that of the class in small letters.
pub(crate) fn module(class: &str) -> String {
    class.to_lowercase()
}

/// A type name: `VM_guest_metrics` becomes `VmGuestMetrics`.
pub(crate) fn class(name: &str) -> String {
    match name {
        // The crate's own `Session` is the live one.
        "session" => "SessionRecord".to_owned(),
        "event" => "EventRecord".to_owned(),
        _ => camel(name),
    }
}

/// Camel case by words; a word in capitals becomes an ordinary word.
pub(crate) fn camel(name: &str) -> String {
    let mut out = String::new();
    for word in name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()) {
        let shout = word.chars().all(|c| !c.is_ascii_lowercase());
        for (i, c) in word.chars().enumerate() {
            if i == 0 {
                out.push(c.to_ascii_uppercase());
            } else if shout {
                out.push(c.to_ascii_lowercase());
            } else {
                out.push(c);
            }
        }
    }
    out
}

/// The name of an enumeration's value; values may start with a digit or hold signs.
pub(crate) fn variant(value: &str) -> String {
    let name = camel(value);
    match name.chars().next() {
        None => "Empty".to_owned(),
        Some(c) if c.is_ascii_digit() => format!("N{name}"),
        // `Other` is the open end of every enumeration.
        Some(_) if name == "Other" => "OtherValue".to_owned(),
        Some(_) if name == "Self" => "SelfValue".to_owned(),
        Some(_) => name,
    }
}

/// A release for people: `dundee` is XenServer 7.0; numbered releases speak for themselves.
pub(crate) fn release(name: &str) -> String {
    RELEASES
        .iter()
        .find(|(code, _)| *code == name)
        .map_or_else(|| format!("XAPI {name}"), |(code, product)| format!("{product} (`{code}`)"))
}

/// A message name as words: `hard_shutdown` becomes `hard shutdown`.
pub(crate) fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_rust_names() {
        assert_eq!(class("VM_guest_metrics"), "VmGuestMetrics");
        assert_eq!(class("SR"), "Sr");
        assert_eq!(class("network_sriov"), "NetworkSriov");
        assert_eq!(snake("VCPUs_max"), "vcpus_max");
        assert_eq!(snake("type"), "r#type");
        assert_eq!(variant("balance-slb"), "BalanceSlb");
        assert_eq!(variant("other"), "OtherValue");
        assert!(release("dundee").contains("7.0"));
        assert_eq!(release("25.27.0"), "XAPI 25.27.0");
    }
}
