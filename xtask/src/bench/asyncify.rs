//! The rival: Binaryen's Asyncify, given the same power to stop. Knows nothing of how it is measured.
//!
//! Asyncify unwinds from imported calls only, so the program is given polls where the rewriter puts them: at every loop header
//! and at the same function entries, each a load, a test, and a call of an import when the flag is set. The flag's bytes are in the
//! program's own memory, below its data: cheaper than ours, never in Asyncify's disfavour.

use crate::Outcome;
use crate::step::output;
use freeze::Map;
use std::path::Path;
use std::process::Command;
use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{BlockType, EntityType, Function, ImportSection, Instruction, MemArg, TypeSection};
use wasmparser::{FunctionBody, ImportSectionReader, Operator, Parser, Payload, TypeRef, TypeSectionReader};

const OPTIONS: [&str; 10] = [
    "--enable-bulk-memory",
    "--enable-sign-ext",
    "--enable-nontrapping-float-to-int",
    "--enable-mutable-globals",
    "--enable-multivalue",
    "--enable-reference-types",
    "--enable-simd",
    "--asyncify",
    "--pass-arg=asyncify-imports@bench.poll",
    "-O2",
];

/// The program with polls, through Asyncify; nothing if there is no `wasm-opt`.
pub fn rival(wasm: &[u8], map: &Map, directory: &Path, name: &str) -> Outcome<Option<Vec<u8>>> {
    if Command::new("wasm-opt").arg("--version").output().is_err() {
        eprintln!("{name}: without Asyncify (no wasm-opt on PATH; Debian's package binaryen has it)");
        return Ok(None);
    }
    let polling = with_polls(wasm, map)?;
    let identity = format!("{:016x}", fingerprint(&polling));
    let input = directory.join(format!("{name}.polling.wasm"));
    let rival = directory.join(format!("{name}-{identity}.asyncify.wasm"));
    if !rival.exists() {
        std::fs::write(&input, polling)?;
        let made = rival.with_extension("new");
        let mut command = Command::new("wasm-opt");
        output(command.args(OPTIONS).arg(&input).arg("-o").arg(&made), "Debian's package binaryen has it")?;
        std::fs::rename(made, &rival)?;
    }
    Ok(Some(std::fs::read(rival)?))
}

fn fingerprint(bytes: &[u8]) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    (bytes, OPTIONS).hash(&mut hasher);
    hasher.finish()
}

fn with_polls(wasm: &[u8], map: &Map) -> Outcome<Vec<u8>> {
    let (mut imported, mut types) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::TypeSection(section) => types = section.count(),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    imported += matches!(import?.ty, TypeRef::Func(_)) as u32;
                }
            }
            _ => {}
        }
    }
    let mut polls = Polls { imported, types, map, next: imported, count: 0 };
    let mut module = wasm_encoder::Module::new();
    polls.parse_core_module(&mut module, Parser::new(0), wasm)?;
    Ok(module.finish())
}

/// Copies a module, adding an imported function behind the imported ones, and polls.
struct Polls<'a> {
    imported: u32,
    types: u32,
    map: &'a Map,
    /// The function whose body comes next, by its index in the original.
    next: u32,
    count: u64,
}

impl Polls<'_> {
    fn poll(&mut self, function: &mut Function) {
        // Bytes of their own, so that the compiler does not merge the loads; wasm-ld puts nothing below 1024.
        let offset = 16 + self.count % 1000;
        self.count += 1;
        function.instruction(&Instruction::I32Const(0));
        function.instruction(&Instruction::I32Load8U(MemArg { offset, align: 0, memory_index: 0 }));
        function.instruction(&Instruction::If(BlockType::Empty));
        function.instruction(&Instruction::Call(self.imported));
        function.instruction(&Instruction::End);
    }
}

impl Reencode for Polls<'_> {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, reencode::Error> {
        Ok(if function < self.imported { function } else { function + 1 })
    }

    fn parse_type_section(
        &mut self, types: &mut TypeSection, section: TypeSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        reencode::utils::parse_type_section(self, types, section)?;
        types.ty().function([], []);
        Ok(())
    }

    fn parse_import_section(
        &mut self, imports: &mut ImportSection, section: ImportSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        reencode::utils::parse_import_section(self, imports, section)?;
        imports.import("bench", "poll", EntityType::Function(self.types));
        Ok(())
    }

    fn parse_custom_section(
        &mut self, _: &mut wasm_encoder::Module, _: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), reencode::Error> {
        Ok(())
    }

    fn parse_function_body(
        &mut self, code: &mut wasm_encoder::CodeSection, body: FunctionBody<'_>,
    ) -> Result<(), reencode::Error> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        if self.map.polls_at_entry(self.next) {
            self.poll(&mut function);
        }
        self.next += 1;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            let is_loop = matches!(operator, Operator::Loop { .. });
            function.instruction(&self.instruction(operator)?);
            if is_loop {
                self.poll(&mut function);
            }
        }
        code.function(&function);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two loops, one cycle of calls, a call through a table, and a host call.
    const PROGRAM: &str = r#"(module
      (import "host" "print" (func $print (param i32)))
      (memory (export "memory") 1)
      (table funcref (elem $print $down))
      (export "down" (func $down))
      (func $count (param i32) (loop $out (loop $in (br_if $in (i32.const 0))) (br_if $out (local.get 0))))
      (func $down (param i32) (if (local.get 0) (then (call $print (local.get 0)) (call $down (i32.sub (local.get 0) (i32.const 1))))))
      (func (export "_start") (call $count (i32.const 0)) (call_indirect (param i32) (i32.const 3) (i32.const 1))))"#;

    #[test]
    fn polls_are_at_loops_and_at_the_entries_that_the_rewriter_polls() {
        let wasm = wat::parse_str(PROGRAM).expect("the program above is right");
        let map = freeze::rewrite(&wasm, &freeze::Options::default()).expect("it can be frozen").map;
        let polling = with_polls(&wasm, &map).expect("it can be given polls");
        wasmparser::validate(&polling).expect("what was written is valid");
        let mut polls = vec![];
        for payload in Parser::new(0).parse_all(&polling) {
            if let Payload::CodeSectionEntry(body) = payload.expect("it is valid") {
                let operators = body.get_operators_reader().expect("it is valid").into_iter();
                polls.push(
                    operators.filter(|operator| matches!(operator, Ok(Operator::Call { function_index: 1 }))).count(),
                );
            }
        }
        assert_eq!(polls, [2, 1, 0], "two loops, one function that calls itself, and one that needs no poll");
    }

    #[test]
    fn what_the_program_does_stays_the_same() {
        let wasm = wat::parse_str(PROGRAM).expect("the program above is right");
        let map = freeze::rewrite(&wasm, &freeze::Options::default()).expect("it can be frozen").map;
        let polling = with_polls(&wasm, &map).expect("it can be given polls");
        assert_eq!(printed(&wasm), [3, 2, 1]);
        assert_eq!(printed(&polling), [3, 2, 1]);
    }

    fn printed(wasm: &[u8]) -> Vec<i32> {
        use wasmtime::{Caller, Engine, Linker, Module, Store};
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).expect("it is valid");
        let mut linker: Linker<Vec<i32>> = Linker::new(&engine);
        let print = |mut caller: Caller<'_, Vec<i32>>, number: i32| caller.data_mut().push(number);
        linker.func_wrap("host", "print", print).expect("nothing else has the name");
        linker
            .func_wrap("bench", "poll", || -> () { panic!("nobody set the flag") })
            .expect("nothing else has the name");
        let mut store = Store::new(&engine, vec![]);
        let instance = linker.instantiate(&mut store, &module).expect("all imports are there");
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").expect("it is exported");
        start.call(&mut store, ()).expect("it does not trap");
        store.into_data()
    }
}
