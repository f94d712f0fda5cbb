//! Which programs are taken, and why others are not. Looks at a module's outside (its first bytes, imports and exports) before
//! any costly work; knows nothing of compiling.

use crate::error::LoadError;
use wasmparser::{Chunk, ExternalKind, FuncType, Parser, Payload, TypeRef, ValType};

const MAGIC: &[u8; 4] = b"\0asm";

/// What other files that people hand to `una run` begin with.
const OTHER_FORMATS: [(&[u8], &str); 10] = [
    (b"\x7fELF", "a Linux program (ELF)"),
    (b"#!", "a script"),
    (b"\xcf\xfa\xed\xfe", "a macOS program (Mach-O)"),
    (b"MZ", "a Windows program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"BC\xc0\xde", "LLVM bitcode"),
    (b"!<arch>\n", "a static library"),
    (b"<", "a web page or XML"),
];

/// Refuses what cannot run, with the most telling reason. `provided` says whether una has an import of this module and name.
pub fn examine(wasm: &[u8], provided: impl Fn(&str, &str) -> bool) -> Result<(), LoadError> {
    first_bytes(wasm)?;
    let outside = Outside::read(wasm)?;
    outside.check_imports(provided)?;
    outside.check_start()
}

fn first_bytes(wasm: &[u8]) -> Result<(), LoadError> {
    if wasm.is_empty() {
        return Err(LoadError::Empty);
    }
    if wasm.starts_with(&freeze::image::MAGIC) {
        return Err(LoadError::Image);
    }
    if let Some((magic, rest)) = wasm.split_first_chunk::<4>()
        && magic == MAGIC
    {
        return match rest.first_chunk::<4>() {
            None => Err(truncated(wasm, "the header")),
            Some([1, 0, 0, 0]) => Ok(()),
            // The second half says which layer: 0 a core module, 1 a component.
            Some([_, _, 1, 0]) => Err(LoadError::Component),
            Some(version) => Err(LoadError::Version { version: *version }),
        };
    }
    if MAGIC.starts_with(wasm) {
        return Err(truncated(wasm, "the header"));
    }
    let text = wasm.trim_ascii_start();
    if text.starts_with(b"(module") || text.starts_with(b"(component") || text.starts_with(b";;") {
        return Err(LoadError::Text);
    }
    let looks_like = OTHER_FORMATS.iter().find(|(start, _)| wasm.starts_with(start)).map(|(_, name)| *name);
    Err(LoadError::NotWasm { first: wasm[..wasm.len().min(4)].to_vec(), looks_like })
}

fn truncated(wasm: &[u8], part: &'static str) -> LoadError {
    LoadError::Truncated { offset: wasm.len() as u64, part }
}

fn section_name(id: u8) -> &'static str {
    match id {
        1 => "the types",
        2 => "the imports",
        7 => "the exports",
        9 => "the tables' elements",
        10 => "the code",
        11 => "the data",
        0 => "a custom section",
        _ => "a section",
    }
}

/// The parts of a module that its host deals with.
#[derive(Default)]
struct Outside {
    imports: Vec<Import>,
    /// Exported functions by name, with their types where those are known.
    functions: Vec<(String, Option<FuncType>)>,
    shared_memory: bool,
}

struct Import {
    module: String,
    name: String,
    ty: TypeRef,
}

impl Outside {
    fn read(wasm: &[u8]) -> Result<Outside, LoadError> {
        let mut outside = Outside::default();
        let mut types: Vec<Option<FuncType>> = vec![];
        let mut functions: Vec<u32> = vec![];
        let mut parser = Parser::new(0);
        let mut rest = wasm;
        let invalid = |error: wasmparser::BinaryReaderError| LoadError::Invalid {
            message: error.message().to_string(),
            offset: error.offset() as u64,
        };
        // Telling the parser that more may come lets it tell a file that ends early from one that is wrong.
        while !rest.is_empty() {
            let (consumed, payload) = match parser.parse(rest, false).map_err(invalid)? {
                Chunk::NeedMoreData(_) => return Err(truncated(wasm, section_name(rest[0]))),
                Chunk::Parsed { consumed, payload } => (consumed, payload),
            };
            rest = &rest[consumed..];
            match payload {
                Payload::TypeSection(section) => {
                    for group in section {
                        for ty in group.map_err(invalid)?.into_types() {
                            types.push(match ty.composite_type.inner {
                                wasmparser::CompositeInnerType::Func(ty) => Some(ty),
                                _ => None,
                            });
                        }
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let wasmparser::Import { module, name, ty } = import.map_err(invalid)?;
                        match ty {
                            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => functions.push(ty),
                            TypeRef::Memory(memory) => outside.shared_memory |= memory.shared,
                            _ => {}
                        }
                        outside.imports.push(Import { module: module.into(), name: name.into(), ty });
                    }
                }
                Payload::FunctionSection(section) => {
                    for ty in section {
                        functions.push(ty.map_err(invalid)?);
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        outside.shared_memory |= memory.map_err(invalid)?.shared;
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export.map_err(invalid)?;
                        if export.kind == ExternalKind::Func {
                            let ty = functions.get(export.index as usize).and_then(|ty| types.get(*ty as usize));
                            outside.functions.push((export.name.into(), ty.cloned().flatten()));
                        }
                    }
                }
                Payload::CodeSectionStart { size, .. } => {
                    // The bodies are for whoever compiles them.
                    rest = rest.get(size as usize..).ok_or_else(|| truncated(wasm, "the code"))?;
                    parser.skip_section();
                }
                _ => {}
            }
        }
        Ok(outside)
    }

    fn check_imports(&self, provided: impl Fn(&str, &str) -> bool) -> Result<(), LoadError> {
        let unknown = |import: &&Import| {
            !matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) || !provided(&import.module, &import.name)
        };
        // The most telling import first: one missing name of many says less than what they are together.
        for import in self.imports.iter().filter(unknown) {
            if let Some(maker) = javascript_host(&import.module, &import.name) {
                let import = format!("{} {}", import.module, import.name);
                return Err(LoadError::JavaScriptHost { maker, import });
            }
        }
        if let Some(import) = self.imports.iter().find(|i| i.module == "wasi" && i.name == "thread-spawn") {
            return Err(LoadError::Threads { construct: format!("import `{} {}`", import.module, import.name) });
        }
        if self.shared_memory {
            return Err(LoadError::Threads { construct: "a shared memory".into() });
        }
        match self.imports.iter().find(unknown) {
            None => Ok(()),
            Some(Import { module, .. }) if module == "wasi_unstable" => {
                Err(LoadError::OldWasi { module: module.clone() })
            }
            Some(Import { module, name, ty: TypeRef::Memory(_) }) => {
                Err(LoadError::ImportedMemory { import: format!("{module} {name}") })
            }
            Some(Import { module, name, ty }) => {
                let kind = match ty {
                    TypeRef::Func(_) | TypeRef::FuncExact(_) => "a function",
                    TypeRef::Table(_) => "a table",
                    TypeRef::Memory(_) => "a memory",
                    TypeRef::Global(_) => "a global",
                    TypeRef::Tag(_) => "a tag",
                };
                Err(LoadError::UnknownImport { module: module.clone(), name: name.clone(), kind })
            }
        }
    }

    fn check_start(&self) -> Result<(), LoadError> {
        let exports = || self.functions.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let find = |wanted: &str| self.functions.iter().find(|(name, _)| name == wanted);
        match find("_start") {
            Some((_, Some(ty))) if ty.params().is_empty() && ty.results().is_empty() => Ok(()),
            Some((_, ty)) => {
                let list = |types: &[ValType]| types.iter().map(|ty| ty.to_string()).collect::<Vec<_>>().join(" ");
                let found = ty.as_ref().map(|ty| format!("({}) -> ({})", list(ty.params()), list(ty.results())));
                Err(LoadError::StartType { found: found.unwrap_or("not a function's".into()) })
            }
            None if find("_initialize").is_some() => Err(LoadError::Reactor { exports: exports() }),
            None => Err(LoadError::NoStart { exports: exports() }),
        }
    }
}

/// Who made a program that imports this, if the name tells that it wants JavaScript around it.
fn javascript_host(module: &str, name: &str) -> Option<&'static str> {
    let emscripten = |name: &str| {
        ["emscripten_", "_emscripten_", "invoke_", "__syscall_", "_embind_", "_emval_"]
            .iter()
            .any(|p| name.starts_with(p))
            || ["__cxa_throw", "_abort_js", "_tzset_js", "__assert_fail"].contains(&name)
    };
    match module {
        "wbg" | "__wbindgen_placeholder__" | "__wbindgen_externref_xform__" => Some("wasm-bindgen"),
        module if module.ends_with(".js") => Some("wasm-bindgen"),
        "go" | "gojs" => Some("Go's js/wasm; build with GOOS=wasip1 instead"),
        "env" | "asm2wasm" | "GOT.mem" | "GOT.func" if emscripten(name) || module != "env" => Some("Emscripten"),
        module if module.ends_with("-js-abi-host") || module == "js" => Some("its language's JavaScript bindings"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is the beginning of the message; empty: taken.
    #[track_caller]
    fn check(wasm: &[u8], expected: &str) {
        let provided = |module: &str, name: &str| module == "wasi_snapshot_preview1" && name == "fd_write";
        let found = examine(wasm, provided).map_or_else(|error| error.to_string(), |()| String::new());
        assert!(
            found.starts_with(expected) && found.is_empty() == expected.is_empty(),
            "{found:?}, expected {expected:?}"
        );
    }

    #[track_caller]
    fn check_text(text: &str, expected: &str) {
        check(&wat::parse_str(text).unwrap(), expected);
    }

    #[test]
    fn files_that_are_not_programs() {
        check(b"", "the file is empty");
        check(b"\x7fELF\x02\x01", "not a WebAssembly program: the file looks like a Linux program");
        check(b"#!/bin/sh\n", "not a WebAssembly program: the file looks like a script");
        check(b"garbage", "not a WebAssembly program: it starts with [67, 61, 72, 62]");
        check(b"  (module)", "this is the text");
        check(b"\x89unaimg\n123", "this is the image");
        check(b"\0asm\x0d\0\x01\0", "a WebAssembly component");
        check(b"\0asm\x02\0\0\0", "WebAssembly of an unknown version (bytes 4 to 8 are [02, 00, 00, 00])");
        check(b"\0as", "the file is cut short: it ends at byte 3, in the middle of the header");
        check(b"\0asm\x01\0", "the file is cut short: it ends at byte 6");
    }

    #[test]
    fn every_cut_is_found() {
        let whole = wat::parse_str(
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
              (memory 1) (export "memory" (memory 0)) (data (i32.const 0) "hello") (func (export "_start")))"#,
        )
        .unwrap();
        check(&whole, "");
        // Between two sections a module can end, and is then at worst wrong in another way.
        let ends = Parser::new(0).parse_all(&whole).filter_map(|payload| Some(payload.unwrap().as_section()?.1.end));
        let ends: Vec<usize> = ends.collect();
        for cut in (1..whole.len()).filter(|cut| !ends.contains(cut)) {
            check(&whole[..cut], if cut == 8 { "the program has no `_start`" } else { "the file is cut short" });
        }
    }

    #[test]
    fn programs_for_other_hosts() {
        check_text(r#"(module (import "./x_bg.js" "f" (func)))"#, "the program needs a JavaScript host (wasm-bindgen)");
        check_text(r#"(module (import "env" "invoke_ii" (func)))"#, "the program needs a JavaScript host (Emscripten)");
        check_text(r#"(module (import "gojs" "runtime.wasmExit" (func)))"#, "the program needs a JavaScript host (Go");
        check_text(r#"(module (import "wasi" "thread-spawn" (func)))"#, "the program uses threads (import");
        check_text(r#"(module (memory 1 2 shared))"#, "the program uses threads (a shared memory)");
        check_text(r#"(module (import "env" "memory" (memory 1)))"#, "the program expects its memory from its host");
        check_text(r#"(module (import "env" "x" (func)))"#, "the program imports `env` `x` (a function)");
        check_text(r#"(module (import "wasi_unstable" "fd_write" (func)))"#, "the program was made for WASI preview 0");
        check_text(
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (global i32)))"#,
            "the program imports `wasi_snapshot_preview1` `fd_write` (a global)",
        );
    }

    #[test]
    fn programs_without_a_start() {
        check_text(r#"(module)"#, "the program has no `_start` to run: it exports no function");
        check_text(
            r#"(module (func (export "add")))"#,
            "the program has no `_start` to run: it is a library that exports `add`",
        );
        check_text(r#"(module (func (export "_initialize")))"#, "a reactor");
        check_text(r#"(module (func (export "_start") (param i32)))"#, "`_start` has the wrong type: (i32) -> ()");
        check_text(r#"(module (memory (export "_start") 1))"#, "the program has no `_start`");
    }
}
