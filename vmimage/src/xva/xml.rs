//! XML-RPC values as XAPI writes them, pulled one by one from a text that is in memory.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deeper documents are refused; a real one has about twenty levels.
const DEEPEST: usize = 64;

/// Why a document is refused; the caller says which document.
pub(super) type Parsed<T> = std::result::Result<T, String>;

/// What an opened `<value>` holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A text, read to the end: untyped, or of a scalar type.
    Scalar(String),
    /// A structure; its members come from [`Xml::member`].
    Struct,
    /// A list; its items come from [`Xml::item`].
    Array,
}

enum Token {
    Open(String),
    Close,
    Text(String),
    End,
}

/// The pull parser.
pub(super) struct Xml<'a> {
    reader: Reader<&'a [u8]>,
    depth: usize,
}

impl<'a> Xml<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut reader = Reader::from_str(text);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_end_names = true;
        Self { reader, depth: 0 }
    }

    /// How many bytes have been read.
    pub(super) fn position(&self) -> u64 {
        self.reader.buffer_position()
    }

    /// The next token. Document types and entities other than the predefined ones are refused, so
    /// nothing expands.
    fn next(&mut self) -> Parsed<Token> {
        loop {
            return Ok(match self.reader.read_event().map_err(|e| e.to_string())? {
                Event::Start(tag) => {
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return Err("it is nested too deeply".to_owned());
                    }
                    Token::Open(tag.local_name().as_ref().to_owned())
                }
                Event::End(_) => {
                    self.depth = self.depth.saturating_sub(1);
                    Token::Close
                }
                Event::Text(text) => Token::Text(text.xml10_content().into_owned()),
                Event::CData(text) => Token::Text(text.xml10_content().into_owned()),
                Event::GeneralRef(entity) => Token::Text(resolve(&entity)?),
                Event::Eof => Token::End,
                Event::DocType(_) => return Err("it declares a document type".to_owned()),
                _ => continue,
            });
        }
    }

    /// Skips blanks and opens an element; `None` at a closing tag.
    fn open(&mut self) -> Parsed<Option<String>> {
        loop {
            match self.next()? {
                Token::Open(name) => return Ok(Some(name)),
                Token::Close => return Ok(None),
                Token::Text(text) if text.trim().is_empty() => {}
                Token::Text(_) => return Err("text stands where an element is due".to_owned()),
                Token::End => return Err("it ends early".to_owned()),
            }
        }
    }

    pub(super) fn expect_open(&mut self, name: &str) -> Parsed<()> {
        match self.open()? {
            Some(found) if found == name => Ok(()),
            _ => Err(format!("{name} is missing")),
        }
    }

    fn expect_close(&mut self) -> Parsed<()> {
        match self.open()? {
            None => Ok(()),
            Some(_) => Err("there is an element too many".to_owned()),
        }
    }

    /// What the `<value>` that was opened holds.
    pub(super) fn value(&mut self) -> Parsed<Shape> {
        let mut untyped = String::new();
        loop {
            match self.next()? {
                Token::Text(text) => untyped.push_str(&text),
                Token::Close => return Ok(Shape::Scalar(untyped)),
                Token::Open(tag) => {
                    return match tag.as_str() {
                        "struct" => Ok(Shape::Struct),
                        "array" => self.expect_open("data").map(|()| Shape::Array),
                        _ => {
                            let text = self.text()?;
                            self.expect_close()?;
                            Ok(Shape::Scalar(text))
                        }
                    };
                }
                Token::End => return Err("it ends early".to_owned()),
            }
        }
    }

    /// The text of a value that must be a scalar.
    pub(super) fn scalar(&mut self) -> Parsed<String> {
        match self.value()? {
            Shape::Scalar(text) => Ok(text),
            _ => Err("a structure or a list stands where a text is due".to_owned()),
        }
    }

    /// The text of a value, or nothing for a structure or a list.
    pub(super) fn scalar_or_skip(&mut self) -> Parsed<String> {
        let outside = self.depth.saturating_sub(1);
        match self.value()? {
            Shape::Scalar(text) => Ok(text),
            _ => self.skip_to(outside).map(|()| String::new()),
        }
    }

    /// Opens the value of the structure's next member and gives its name; `None` once the
    /// structure and the value around it are closed. After the value, [`close`](Self::close).
    pub(super) fn member(&mut self) -> Parsed<Option<String>> {
        match self.open()?.as_deref() {
            None => self.expect_close().map(|()| None),
            Some("member") => {
                self.expect_open("name")?;
                let name = self.text()?;
                self.expect_open("value")?;
                Ok(Some(name))
            }
            Some(_) => Err("a structure holds something else than members".to_owned()),
        }
    }

    /// Closes a member.
    pub(super) fn close(&mut self) -> Parsed<()> {
        self.expect_close()
    }

    /// Opens the next value of the list; `false` once the list and the value around it are closed.
    pub(super) fn item(&mut self) -> Parsed<bool> {
        match self.open()?.as_deref() {
            None => {
                self.expect_close()?;
                self.expect_close()?;
                Ok(false)
            }
            Some("value") => Ok(true),
            Some(_) => Err("a list holds something else than values".to_owned()),
        }
    }

    /// Passes over the value that was opened, whatever it holds.
    pub(super) fn skip(&mut self) -> Parsed<()> {
        self.scalar_or_skip().map(|_| ())
    }

    fn skip_to(&mut self, depth: usize) -> Parsed<()> {
        while self.depth > depth {
            if let Token::End = self.next()? {
                return Err("it ends early".to_owned());
            }
        }
        Ok(())
    }

    /// That nothing but blanks follows.
    pub(super) fn expect_end(&mut self) -> Parsed<()> {
        loop {
            match self.next()? {
                Token::End => return Ok(()),
                Token::Text(text) if text.trim().is_empty() => {}
                _ => return Err("something follows the value".to_owned()),
            }
        }
    }

    fn text(&mut self) -> Parsed<String> {
        let mut out = String::new();
        loop {
            match self.next()? {
                Token::Text(text) => out.push_str(&text),
                Token::Close => return Ok(out),
                Token::Open(_) => return Err("an element stands where text is due".to_owned()),
                Token::End => return Err("it ends early".to_owned()),
            }
        }
    }
}

/// A predefined entity or a character by its number.
fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Parsed<String> {
    if let Some(c) = entity.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(c.to_string());
    }
    match entity.xml10_content().as_ref() {
        "lt" => Ok("<".to_owned()),
        "gt" => Ok(">".to_owned()),
        "amp" => Ok("&".to_owned()),
        "quot" => Ok("\"".to_owned()),
        "apos" => Ok("'".to_owned()),
        _ => Err("it uses an entity of its own".to_owned()),
    }
}

/// Writes XML-RPC values in the same dialect: integers untyped, because `<int>` has 32 bits.
#[derive(Debug, Default)]
pub(super) struct XmlWriter(pub(super) String);

impl XmlWriter {
    pub(super) fn text(&mut self, text: &str) {
        self.0.push_str("<value>");
        self.escape(text);
        self.0.push_str("</value>");
    }

    pub(super) fn bool(&mut self, yes: bool) {
        self.0.push_str("<value><boolean>");
        self.0.push(if yes { '1' } else { '0' });
        self.0.push_str("</boolean></value>");
    }

    /// A value of the type `tag`.
    pub(super) fn typed(&mut self, tag: &str, text: &str) {
        self.0.push_str(&format!("<value><{tag}>"));
        self.escape(text);
        self.0.push_str(&format!("</{tag}></value>"));
    }

    pub(super) fn structure(&mut self, fill: impl FnOnce(&mut Self)) {
        self.0.push_str("<value><struct>");
        fill(self);
        self.0.push_str("</struct></value>");
    }

    pub(super) fn array(&mut self, fill: impl FnOnce(&mut Self)) {
        self.0.push_str("<value><array><data>");
        fill(self);
        self.0.push_str("</data></array></value>");
    }

    pub(super) fn member(&mut self, name: &str, value: impl FnOnce(&mut Self)) {
        self.0.push_str("<member><name>");
        self.escape(name);
        self.0.push_str("</name>");
        value(self);
        self.0.push_str("</member>");
    }

    fn escape(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&apos;"),
                // A bare one would be read as a line feed.
                '\r' => self.0.push_str("&#13;"),
                // XML has no other control characters, not even as references.
                '\t' | '\n' => self.0.push(c),
                c if c.is_control() => self.0.push(char::REPLACEMENT_CHARACTER),
                c => self.0.push(c),
            }
        }
    }
}
