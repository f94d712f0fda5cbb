//! What scripts get: JSON that says which form it has. Knows no command.

use serde::Serialize;

#[derive(Serialize)]
struct Versioned<'a, T> {
    /// Changes when a field changes its meaning or goes; new fields may come.
    schema: &'static str,
    #[serde(flatten)]
    content: &'a T,
}

/// One object over several lines. The content is one itself, with text for its keys.
pub fn text(schema: &'static str, content: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(&Versioned { schema, content });
    text.expect("what is told is plain data") + "\n"
}

/// One object on one line, for what is told again and again.
pub fn line(schema: &'static str, content: &impl Serialize) -> String {
    let text = serde_json::to_string(&Versioned { schema, content });
    text.expect("what is told is plain data") + "\n"
}
