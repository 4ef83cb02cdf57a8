use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Vec<Step> {
    BootCommand::parse(text).unwrap().steps
}

fn ch(c: char) -> Step {
    Step::Strike(Key::Char(c))
}

fn literal(text: &str) -> Vec<Step> {
    BootCommand::literal(text).steps
}

fn offset(error: &Error) -> usize {
    use std::error::Error as _;
    assert_eq!(error.kind(), ErrorKind::Config);
    let source = error.source().unwrap().downcast_ref::<BootCommandError>().unwrap();
    assert!(error.to_string().contains(source.expected()), "{error}");
    source.offset()
}

#[test]
fn waits() {
    let ms = Duration::from_millis;
    for (text, time) in [
        ("<wait>", ms(1_000)),
        ("<wait5>", ms(5_000)),
        ("<wait10>", ms(10_000)),
        ("<wait1m30s>", ms(90_000)),
        ("<wait1m20s>", ms(80_000)),
        ("<wait300ms>", ms(300)),
        ("<wait1.5h>", ms(5_400_000)),
        ("<wait2h45m>", ms(9_900_000)),
        ("<wait0.5s>", ms(500)),
        ("<wait0h5s>", ms(5_000)),
        ("<wait7us>", Duration::from_micros(7)),
        ("<wait7µs>", Duration::from_micros(7)),
        ("<wait7ns>", Duration::from_nanos(7)),
        ("<wait0.000000001s>", Duration::from_nanos(1)),
        ("<wait9223372036s>", Duration::from_secs(9_223_372_036)),
    ] {
        assert_eq!(parse(text), [Step::Wait(time)], "{text}");
    }
}

#[test]
fn what_only_looks_like_an_expression_is_typed() {
    for text in [
        "<Wait>",
        "<WAIT5>",
        "<wait05>",
        "<wait 5>",
        "<wait-5>",
        "<wait1.5>",
        "<wait.5s>",
        "<wait5s3>",
        "<wait5d>",
        "<wait5",
        "<wait1.s>",
        "<foo>",
        "<",
        "<<",
        "<>",
        "<enter",
        "<enter >",
        "< enter>",
        "<f13>",
        "<f0>",
        "<aOnn>",
        "<On>",
        "<on>",
        "<Off>",
        "<leftOnOff>",
        "{{ .HTTPIP }}",
        "a>b",
    ] {
        assert_eq!(parse(text), literal(text), "{text}");
    }
}

#[test]
fn characters_are_toggled() {
    for (text, c) in [
        ("<aOn>", 'a'),
        ("<AON>", 'A'),
        ("<<on>", '<'),
        ("<>oN>", '>'),
        ("<äOn>", 'ä'),
        ("< On>", ' '),
    ] {
        assert_eq!(parse(text), [Step::Hold(Key::Char(c))], "{text}");
        let off = text.to_lowercase().replace("on>", "OfF>").replace('a', "A");
        let Step::Release(Key::Char(released)) = parse(&off)[0] else { panic!("{off}") };
        assert_eq!(released.to_ascii_lowercase(), c.to_ascii_lowercase(), "{off}");
    }
    // The grammar asks for a character first, so that these are no names.
    assert_eq!(parse("<oOn>"), [Step::Hold(Key::Char('o'))]);
}

#[test]
fn every_key_in_every_case_and_state() {
    for key in SpecialKey::ALL.iter().copied() {
        for name in [key.name().to_owned(), key.name().to_uppercase(), key.name().to_lowercase()] {
            let key = Key::Special(key);
            assert_eq!(parse(&format!("<{name}>")), [Step::Strike(key)]);
            assert_eq!(parse(&format!("<{name}On>")), [Step::Hold(key)]);
            assert_eq!(parse(&format!("<{name}oFF>")), [Step::Release(key)]);
        }
    }
}

#[test]
fn the_examples_of_the_documentation() {
    let steps = parse("<leftCtrlOn>c<leftCtrlOff>");
    let ctrl = Key::Special(SpecialKey::LeftCtrl);
    assert_eq!(steps, [Step::Hold(ctrl), ch('c'), Step::Release(ctrl)]);
    let events: Vec<(u32, bool)> = steps
        .iter()
        .flat_map(|step| step.events())
        .map(|event| (event.keysym, event.down))
        .collect();
    assert_eq!(events, [(0xffe3, true), (0x63, true), (0x63, false), (0xffe3, false)]);

    let list = ["<tab><wait>", " ks=http://10.0.0.2:80/c.cfg<ent", "er>"];
    let command = BootCommand::parse_list(list).unwrap();
    assert_eq!(command.steps()[0], Step::Strike(Key::Special(SpecialKey::Tab)));
    assert_eq!(command.steps().last(), Some(&Step::Strike(Key::Special(SpecialKey::Enter))));
    assert_eq!(command.waits(), Duration::from_secs(1));
    assert!(parse("").is_empty());
}

#[test]
fn errors_name_the_place() {
    for (text, at, word) in [
        ("<wait0>", 0, "longer than zero"),
        ("ab<wait0s>", 2, "longer than zero"),
        ("ä<wait-5s>", 2, "longer than zero"),
        ("<wait-1m5s>", 0, "longer than zero"),
        ("<wait1m-5s>", 0, "292 years"),
        ("<wait0.0000000001s>", 0, "longer than zero"),
        ("x<wait9223372037>", 1, "292 years"),
        ("x<wait99999999999999999999999>", 1, "292 years"),
        ("x<wait99999999999999999999h>", 1, "292 years"),
        ("x<wait18446744073709551615h18446744073709551615h>", 1, "292 years"),
    ] {
        let error = BootCommand::parse(text).unwrap_err();
        assert_eq!(offset(&error), at, "{text}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn strictly_a_misspelt_name_is_an_error() {
    for (text, at) in
        [("root<etner>", 4), ("<Wait>", 0), ("<enter><wait05>", 7), ("<f13>", 0), ("<wait1.5>", 0)]
    {
        assert_eq!(offset(&BootCommand::parse_strict(text).unwrap_err()), at, "{text}");
    }
    for text in ["<enter>", "a < b > c", "<<On>", "<>", "cat <<EOF", "<5>", "<not a name>"] {
        assert_eq!(BootCommand::parse_strict(text).unwrap().steps, parse(text), "{text}");
    }
}

/// The text of a step, for the way back.
fn spell(step: Step) -> String {
    match step {
        Step::Strike(Key::Char(c)) => c.to_string(),
        Step::Hold(Key::Char(c)) => format!("<{c}On>"),
        Step::Release(Key::Char(c)) => format!("<{c}Off>"),
        Step::Strike(Key::Special(k)) => format!("<{k}>"),
        Step::Hold(Key::Special(k)) => format!("<{k}ON>"),
        Step::Release(Key::Special(k)) => format!("<{k}off>"),
        Step::Wait(time) => format!("<wait{}s{}ns>", time.as_secs(), time.subsec_nanos()),
    }
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![
        any::<char>().prop_map(Key::Char),
        proptest::sample::select(SpecialKey::ALL).prop_map(Key::Special),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // A bare `<` could begin something else with what follows.
        any_key().prop_filter("<", |key| *key != Key::Char('<')).prop_map(Step::Strike),
        any_key().prop_map(Step::Hold),
        any_key().prop_map(Step::Release),
        (1..=MOST_NANOS).prop_map(|n| Step::Wait(Duration::from_nanos(n))),
    ]
}

proptest! {
    #[test]
    fn what_is_spelt_is_read_back(steps in proptest::collection::vec(any_step(), 0..20)) {
        let text: String = steps.iter().map(|step| spell(*step)).collect();
        prop_assert_eq!(parse(&text), steps);
    }

    #[test]
    fn no_text_is_a_panic_and_offsets_are_places(text in "[<>a-zA-Z0-9.µwait-]{0,30}|\\PC{0,30}") {
        for result in [BootCommand::parse(&text), BootCommand::parse_strict(&text)] {
            match result {
                Ok(command) => prop_assert!(command.steps().len() <= text.chars().count()),
                Err(e) => prop_assert!(text[offset(&e)..].starts_with('<')),
            }
        }
    }

    #[test]
    fn whatever_is_held_for_a_key_is_let_go(key in any_key()) {
        let mut held = Vec::new();
        for event in Step::Strike(key).events() {
            if event.down {
                held.push(event.keysym);
            } else {
                prop_assert_eq!(held.pop(), Some(event.keysym));
            }
        }
        prop_assert!(held.is_empty());
    }
}
