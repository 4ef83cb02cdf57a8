//! The signature of arbitrary parameters, judged by the double's own reading of the server's rules.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use cloudstack_client::{Credentials, ErrorKind, Expires, Spelling, sign};
use proptest::prelude::*;
use simulator::cloudstack::CloudStack;

/// Names as servers have them: in any case, with indexes and keys.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z][a-zA-Z0-9]{0,12}",
        "[a-z]{2,10}\\[[0-9]{1,2}\\]\\.[a-zA-Z.~_-]{1,12}",
        "[!#-%'-<>-~]{1,8}",
    ]
}

/// Everything that Java escapes or not, and texts of every script.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\r\n]{0,40}",
        "[~*+%&=/:@'!()\\[\\],. _-]{1,20}",
        "\\PC{0,20}",
        "[ÉéßİıΣς\u{1f600}\u{10ffff}]{1,8}",
    ]
}

fn reserved(name: &str) -> bool {
    let own = ["signature", "signatureversion", "expires", "apikey", "response", "command"];
    own.iter().any(|own| name.eq_ignore_ascii_case(own))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_signature_is_one_that_the_server_makes(
        parameters in prop::collection::btree_map(name(), value(), 0..12),
        secret in "[ -~]{1,86}",
        seconds in 0u64..100_000_000_000,
        legacy in any::<bool>(),
    ) {
        let parameters: BTreeMap<_, _> =
            parameters.into_iter().filter(|(name, _)| !reserved(name)).collect();
        prop_assume!(!secret.trim().is_empty());
        let spelling = if legacy { Spelling::Legacy } else { Spelling::Offset };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let credentials = Credentials::new("key", &secret);
        let all = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = all.chain([("command", "listZones")]);
        let signed = sign(&credentials, all, Expires::at(at).spelled(spelling)).unwrap();
        prop_assert!(CloudStack::is_genuine(secret.trim(), signed.as_str()), "{}", signed.as_str());
        prop_assert!(!CloudStack::is_genuine("another", signed.as_str()));
        // Any other value has another signature, but for what the server cannot tell apart: letter case.
        if let Some((name, value)) = parameters.first_key_value() {
            let mut other = parameters.clone();
            other.insert(name.clone(), format!("{value}x"));
            let all = other.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let all = all.chain([("command", "listZones")]);
            let changed = sign(&credentials, all, Expires::at(at).spelled(spelling)).unwrap();
            let of = |text: &str| text.rsplit_once("signature=").unwrap().1.to_owned();
            prop_assert_ne!(of(signed.as_str()), of(changed.as_str()));
        }
    }

    #[test]
    fn names_outside_of_ascii_are_refused(name in "[a-z]{0,4}[^ -~]{1,3}[a-z]{0,4}", value in "[a-z]{0,4}") {
        let at = SystemTime::UNIX_EPOCH;
        let refused = sign(&Credentials::new("key", "secret"), [(name, value)], at).unwrap_err();
        prop_assert_eq!(refused.kind(), ErrorKind::Name);
    }
}
