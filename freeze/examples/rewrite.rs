//! Rewrites a module and says how it grew: `cargo run --release -p freeze --example rewrite IN.wasm [OUT.wasm]`.

use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().ok_or("usage: rewrite IN.wasm [OUT.wasm]")?;
    let wasm = std::fs::read(input)?;
    let start = Instant::now();
    let rewritten = freeze::rewrite(&wasm, &freeze::Options::default())?;
    let grown = rewritten.wasm.len() as f64 / wasm.len() as f64;
    println!("{} -> {} bytes ({grown:.2}x) in {:.0?}", wasm.len(), rewritten.wasm.len(), start.elapsed());
    println!("map: {} bytes", rewritten.map.to_bytes().len());
    if let Some(output) = arguments.next() {
        std::fs::write(output, &rewritten.wasm)?;
    }
    Ok(())
}
