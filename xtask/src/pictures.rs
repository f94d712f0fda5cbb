//! The pictures in the documents, made from what una really prints. Knows how a terminal looks and how SVG and PNG are written.

use crate::Outcome;
use crate::cluster;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A character of the terminal, in units of the picture. Half a character is a square.
const WIDTH: usize = 8;
const HEIGHT: usize = 16;
const COLUMNS: usize = 76;
const MARGIN: usize = 16;

/// How many lines are drawn before the program is frozen.
const FIRST_LINES: usize = 11;

enum Row {
    Command(String),
    Text(String),
    /// Lines of half-block characters: rows of pixels, red, green and blue.
    Pixels(Vec<Vec<[u8; 3]>>),
}

pub fn run() -> Outcome {
    let root = crate::root();
    let una = cluster::build()?;
    half(&root, &una)?;
    top(&root, &una)
}

/// A program that is frozen in the middle of its picture.
fn half(root: &Path, una: &Path) -> Outcome {
    let image = "half.image";
    // The program draws in colours by itself on a terminal; here it is told to.
    let drawing = start(root, una, &["run", "--image", image, "programs/raytracer.wasm", "--colour"])?;
    let (first, said) = draw(drawing, Some(FIRST_LINES))?;
    let rest = start(root, una, &["thaw", image]).and_then(|process| draw(process, None));
    std::fs::remove_file(root.join(image))?;
    let (rest, _) = rest?;
    let rows = [
        Row::Command(format!("una run --image {image} programs/raytracer.wasm")),
        Row::Pixels(first),
        Row::Text("^Z".into()),
        // Where the project lies on this machine is nobody's business.
        Row::Text(said.trim().replace(&root.display().to_string(), "~/una")),
        Row::Command(format!("una thaw {image}")),
        Row::Pixels(rest),
    ];
    let path = root.join("docs/pictures/half.svg");
    std::fs::write(&path, svg(&rows))?;
    eprintln!("{}: written", path.display());
    Ok(())
}

/// `una top` over three nodes with a few processes on them.
fn top(root: &Path, una: &Path) -> Outcome {
    let python = root.join("target/programs/python.wasm");
    if !python.exists() {
        return Err("the picture of una top shows Python: cargo xtask fetch python".into());
    }
    let python = python.to_str().ok_or("the project's path is not UTF-8")?;
    let raytracer = root.join("programs/raytracer.wasm").display().to_string();
    let place = root.join("target/picture");
    cluster::end(&place)?;
    let drawn = (|| -> Outcome<String> {
        cluster::start(&place, 3, una, &[])?;
        let busy = "import time, hashlib\nwhile True:\n  hashlib.sha256(bytes(4000000)).digest()\n  time.sleep(0.08)";
        let idle = "import time\nwhile True: time.sleep(60)";
        let poster: &[&str] = &[&raytracer, "--size", "4000", "3000", "--rays", "99"];
        let processes: [(&str, &str, &[&str]); 5] = [
            ("feeds", "1", &[python, "-c", idle]),
            ("crawler", "3", &[python, "-c", idle]),
            ("importer", "1", &[python, "-c", busy]),
            ("poster", "2", poster),
            ("thumbnails", "2", poster),
        ];
        let mut last = String::new();
        for (name, node, words) in processes {
            last = cluster::begin(&place, &[&["--on", node, "--name", name], words].concat())?;
        }
        cluster::speak(&place, 1, &["stop", &last])?;
        cluster::speak(&place, 1, &["top", "--draw", "96x18"])
    })();
    cluster::end(&place)?;
    let path = root.join("docs/pictures/top.svg");
    // Where the project lies on this machine is nobody's business.
    std::fs::write(&path, screen(&drawn?.replace(&root.display().to_string(), "~/una")))?;
    eprintln!("{}: written", path.display());
    Ok(())
}

/// How a piece of a terminal's line looks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Look {
    colour: Option<u8>,
    bold: bool,
    reversed: bool,
}

impl Look {
    fn ink(self) -> &'static str {
        match self.colour {
            Some(31) => "#ef6b73",
            Some(32) => "#7fd88f",
            Some(33) => "#e5c07b",
            Some(35) => "#c792ea",
            Some(36) => "#56c8d8",
            Some(90) => "#747d8c",
            _ if self.bold && !self.reversed => "#ffffff",
            _ => "#c8ced8",
        }
    }
}

const PAPER: &str = "#15171c";

/// A terminal's screen, as text with its colours, as a picture.
fn screen(text: &str) -> String {
    let lines: Vec<Vec<(char, Look)>> = text.lines().map(cells).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut out = head(columns, lines.len());
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN + number * HEIGHT;
        let mut column = 0;
        for run in line.chunk_by(|a, b| a.1 == b.1 && shape(a.0).is_some() == shape(b.0).is_some()) {
            let look = run[0].1;
            let (ink, x) =
                if look.reversed { (PAPER, MARGIN + column * WIDTH) } else { (look.ink(), MARGIN + column * WIDTH) };
            if look.reversed {
                let _ = writeln!(
                    out,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{HEIGHT}\" fill=\"{}\"/>",
                    run.len() * WIDTH,
                    look.ink()
                );
            }
            for (index, (letter, _)) in run.iter().enumerate() {
                if let Some((width, height)) = shape(*letter) {
                    let _ = writeln!(
                        out,
                        "<rect x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{height}\" fill=\"{ink}\"/>",
                        x + index * WIDTH,
                        y + HEIGHT - 1 - height,
                    );
                }
            }
            words(&mut out, y, column, run, ink);
            column += run.len();
        }
    }
    out + "</svg>\n"
}

/// Words, each at its place: a renderer may draw several spaces as one.
fn words(out: &mut String, y: usize, column: usize, run: &[(char, Look)], ink: &str) {
    let mut at = column;
    for word in run.split_inclusive(|(letter, _)| *letter == ' ') {
        let text: String = word.iter().map(|(letter, _)| letter).collect();
        let text = text.trim_end();
        if !text.is_empty() && shape(word[0].0).is_none() {
            letters(out, y, at, text, ink);
        }
        at += word.len();
    }
}

/// Blocks are drawn as what they are, since fonts leave gaps between them: width and height in units of the picture.
fn shape(letter: char) -> Option<(usize, usize)> {
    const TALL: usize = HEIGHT - 3;
    match letter {
        // From an eighth of the height to all of it, and from all of the width to an eighth of it.
        '▁'..='█' => Some((WIDTH, (letter as usize - '▁' as usize + 1) * TALL / 8)),
        '▉'..='▏' => Some((WIDTH * (7 - (letter as usize - '▉' as usize)) / 8, TALL)),
        _ => None,
    }
}

/// Characters with their looks, from a line with `ESC[...m` in it.
fn cells(line: &str) -> Vec<(char, Look)> {
    let mut cells = vec![];
    let mut look = Look::default();
    for (number, part) in line.split("\x1b[").enumerate() {
        let text = match part.split_once('m') {
            Some((codes, text)) if number > 0 => {
                for code in codes.split(';') {
                    match code.parse() {
                        Ok(1) => look.bold = true,
                        Ok(7) => look.reversed = true,
                        Ok(colour @ 30..=97) => look.colour = Some(colour),
                        _ => look = Look::default(),
                    }
                }
                text
            }
            _ => part,
        };
        cells.extend(text.chars().map(|letter| (letter, look)));
    }
    cells
}

fn start(root: &Path, una: &Path, arguments: &[&str]) -> Outcome<Child> {
    let mut command = Command::new(una);
    command.args(arguments).current_dir(root).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command.spawn()?)
}

/// The pixels that a process draws, until it ends or, after so many lines, is frozen; and what it says to the user.
fn draw(mut process: Child, freeze_after: Option<usize>) -> Outcome<(Vec<Vec<[u8; 3]>>, String)> {
    let output = BufReader::new(process.stdout.take().ok_or("the output was asked for")?);
    let mut pixels = vec![];
    for (number, line) in output.lines().enumerate() {
        pixels.extend(half_blocks(&line?)?);
        if freeze_after == Some(number + 1) {
            kill_process(Pid::from_child(&process), Signal::TSTP)?;
        }
    }
    let mut said = String::new();
    process.stderr.take().ok_or("the errors were asked for")?.read_to_string(&mut said)?;
    process.wait()?;
    Ok((pixels, said))
}

/// `ESC[38;2;R;G;B;48;2;R;G;Bm▀` for each column: two rows of pixels.
fn half_blocks(line: &str) -> Outcome<[Vec<[u8; 3]>; 2]> {
    let (mut above, mut below) = (vec![], vec![]);
    for colours in line.split("\x1b[38;2;").skip(1) {
        let numbers = colours.split('m').next().unwrap_or_default().replace(";48;2;", ";");
        let numbers = numbers.split(';').map(str::parse).collect::<Result<Vec<u8>, _>>()?;
        let [a, b, c, d, e, f] = numbers[..] else { return Err("not two colours".into()) };
        above.push([a, b, c]);
        below.push([d, e, f]);
    }
    Ok([above, below])
}

fn svg(rows: &[Row]) -> String {
    let lines = |row: &Row| match row {
        Row::Pixels(pixels) => pixels.len() / 2,
        _ => 1,
    };
    let mut out = head(COLUMNS, rows.iter().map(lines).sum());
    let mut y = MARGIN;
    for row in rows {
        match row {
            Row::Command(text) => {
                letters(&mut out, y, 0, "$", "#7fd88f");
                letters(&mut out, y, 2, text, "#ffffff");
            }
            Row::Text(text) => letters(&mut out, y, 0, text, "#aab2c0"),
            Row::Pixels(pixels) => {
                let (columns, rows) = (pixels.first().map_or(0, Vec::len), pixels.len());
                let _ = writeln!(
                    out,
                    "<image x=\"{MARGIN}\" y=\"{y}\" width=\"{}\" height=\"{}\" style=\"image-rendering:pixelated\" \
                     href=\"data:image/png;base64,{}\"/>",
                    columns * WIDTH,
                    rows * HEIGHT / 2,
                    base64(&png(pixels))
                );
            }
        }
        y += lines(row) * HEIGHT;
    }
    out + "</svg>\n"
}

/// An empty screen of this size.
fn head(columns: usize, lines: usize) -> String {
    let (width, height) = (columns * WIDTH + 2 * MARGIN, lines * HEIGHT + 2 * MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{PAPER}\"/>\n"
    )
}

/// Text on the grid of characters, whatever font there is.
fn letters(out: &mut String, y: usize, column: usize, text: &str, colour: &str) {
    let (x, baseline, length) = (MARGIN + column * WIDTH, y + 12, text.chars().count() * WIDTH);
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x}\" y=\"{baseline}\" textLength=\"{length}\" fill=\"{colour}\">{text}</text>");
}

/// A PNG (RFC 2083) without compression: it is a picture of a few thousand pixels.
fn png(pixels: &[Vec<[u8; 3]>]) -> Vec<u8> {
    let (width, height) = (pixels.first().map_or(0, Vec::len) as u32, pixels.len() as u32);
    // Each row begins with its filter: none.
    let raw: Vec<u8> = pixels.iter().flat_map(|row| std::iter::once(0).chain(row.iter().flatten().copied())).collect();
    let mut zlib = vec![0x78, 0x01];
    let blocks = raw.chunks(0xffff).count();
    for (index, block) in raw.chunks(0xffff).enumerate() {
        let length = block.len() as u16;
        zlib.push((index + 1 == blocks) as u8);
        zlib.extend_from_slice(&length.to_le_bytes());
        zlib.extend_from_slice(&(!length).to_le_bytes());
        zlib.extend_from_slice(block);
    }
    let (a, b) = raw.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    zlib.extend_from_slice(&(b << 16 | a).to_be_bytes());
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [(b"IHDR", &header), (b"IDAT", &zlib), (b"IEND", &vec![])] {
        let part = [kind.as_slice(), content].concat();
        png.extend_from_slice(&(content.len() as u32).to_be_bytes());
        png.extend_from_slice(&part);
        png.extend_from_slice(&crc32(&part).to_be_bytes());
    }
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().enumerate().fold(0u32, |bits, (index, byte)| bits | u32::from(*byte) << (16 - 8 * index));
        for digit in 0..4 {
            let used = digit <= chunk.len();
            out.push(if used { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] as char } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_text() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn looks_are_read() {
        let bold = Look { colour: Some(36), bold: true, reversed: false };
        let expected = [('a', Look::default()), ('b', bold), ('c', Look { reversed: true, ..Look::default() })];
        assert_eq!(cells("a\x1b[0;1;36mb\x1b[0;7mc\x1b[0m"), expected);
        assert_eq!(
            [shape('█'), shape('▄'), shape('▌'), shape('a')],
            [Some((8, 13)), Some((8, 6)), Some((4, 13)), None]
        );
    }

    #[test]
    fn colours_are_read() {
        let line = "\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[38;2;7;8;9;48;2;10;11;12m▀\x1b[0m";
        assert_eq!(
            half_blocks(line).expect("two characters"),
            [vec![[1, 2, 3], [7, 8, 9]], vec![[4, 5, 6], [10, 11, 12]]]
        );
        assert!(half_blocks("\x1b[38;2;1;2;3m▀").is_err());
    }
}
