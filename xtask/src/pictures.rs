//! The pictures in the documents, made from what una really prints. Knows how a terminal looks and how SVG and PNG are written.

use crate::Outcome;
use crate::step::{cargo, step};
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
    step(cargo().args(["build", "--release", "--locked", "--package", "una-cli"]), "cargo comes with Rust")?;
    let una = std::env::current_exe()?.with_file_name("una");
    let image = "half.image";
    // The program draws in colours by itself on a terminal; here it is told to.
    let drawing = start(&root, &una, &["run", "--image", image, "programs/raytracer.wasm", "--colour"])?;
    let (first, said) = draw(drawing, Some(FIRST_LINES))?;
    let rest = start(&root, &una, &["thaw", image]).and_then(|process| draw(process, None));
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
    let (width, height) = (COLUMNS * WIDTH + 2 * MARGIN, rows.iter().map(lines).sum::<usize>() * HEIGHT + 2 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#15171c\"/>\n"
    );
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
        let bits = chunk.iter().enumerate().fold(0u32, |bits, (index, byte)| bits | u32::from(*byte) << (16 - 8 * index));
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
        assert_eq!(["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn colours_are_read() {
        let line = "\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[38;2;7;8;9;48;2;10;11;12m▀\x1b[0m";
        assert_eq!(half_blocks(line).expect("two characters"), [vec![[1, 2, 3], [7, 8, 9]], vec![[4, 5, 6], [10, 11, 12]]]);
        assert!(half_blocks("\x1b[38;2;1;2;3m▀").is_err());
    }
}
