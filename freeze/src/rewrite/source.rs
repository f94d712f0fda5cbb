//! The module as it was given: its sections, types and index spaces. Knows nothing of freezing.

use crate::error::{FunctionName, RewriteError};
use std::collections::HashMap;
use wasmparser::types::CoreTypeId;
use wasmparser::{
    BlockType, CompositeInnerType, ElementSectionReader, ExportSectionReader, FuncToValidate, FuncType, FunctionBody,
    FunctionSectionReader, GlobalSectionReader, GlobalType, HeapType, ImportSectionReader, MemorySectionReader,
    MemoryType, Parser, Payload, RefType, TableSectionReader, TableType, TagSectionReader, TypeRef, TypeSectionReader,
    UnpackedIndex, ValType, ValidPayload, Validator, ValidatorResources, WasmFeatures,
};

/// The sections of a module as readers, and what its index spaces hold.
pub(super) struct Source<'a> {
    pub wasm: &'a [u8],
    pub types_section: Option<TypeSectionReader<'a>>,
    pub imports_section: Option<ImportSectionReader<'a>>,
    pub functions_section: Option<FunctionSectionReader<'a>>,
    pub tables_section: Option<TableSectionReader<'a>>,
    pub memories_section: Option<MemorySectionReader<'a>>,
    pub tags_section: Option<TagSectionReader<'a>>,
    pub globals_section: Option<GlobalSectionReader<'a>>,
    pub exports_section: Option<ExportSectionReader<'a>>,
    pub elements_section: Option<ElementSectionReader<'a>>,
    pub data_section: Option<std::ops::Range<usize>>,
    pub data_count: Option<u32>,
    pub start: Option<u32>,
    /// Custom sections worth keeping: (name, contents).
    pub customs: Vec<(&'a str, &'a [u8])>,
    pub names: Option<wasmparser::NameSectionReader<'a>>,

    /// By type index; `None` for struct, array and continuation types.
    pub types: Vec<Option<FuncType>>,
    /// Type index by the validator's own identity of types, which the operand types that it reports use.
    type_index: HashMap<CoreTypeId, u32>,
    /// Some type has a supertype or may have one: signatures are then compared by arity only.
    pub subtyping: bool,
    /// Some struct or array type can be written to: what an unchanging reference leads to may change all the same.
    pub writable_aggregates: bool,
    /// Type index of each function, imported ones first.
    pub function_types: Vec<u32>,
    pub imported_functions: u32,
    pub globals: Vec<GlobalType>,
    pub imported_globals: u32,
    pub tables: Vec<TableType>,
    pub imported_tables: u32,
    pub memories: Vec<MemoryType>,
    pub imported_memories: u32,
    /// Type index of each tag.
    pub tags: Vec<u32>,
    pub bodies: Vec<(FuncToValidate<ValidatorResources>, FunctionBody<'a>)>,
}

/// Everything wasmtime 48 may be told to accept; what the engine then refuses is its own matter.
fn features() -> WasmFeatures {
    WasmFeatures::WASM3
        | WasmFeatures::WIDE_ARITHMETIC
        | WasmFeatures::CUSTOM_PAGE_SIZES
        | WasmFeatures::LEGACY_EXCEPTIONS
}

impl<'a> Source<'a> {
    /// Parses and validates all but the function bodies, which are validated as they are rewritten.
    pub fn parse(wasm: &'a [u8]) -> Result<Source<'a>, RewriteError> {
        let mut source = Source {
            wasm,
            types_section: None,
            imports_section: None,
            functions_section: None,
            tables_section: None,
            memories_section: None,
            tags_section: None,
            globals_section: None,
            exports_section: None,
            elements_section: None,
            data_section: None,
            data_count: None,
            start: None,
            customs: vec![],
            names: None,
            types: vec![],
            type_index: HashMap::new(),
            subtyping: false,
            writable_aggregates: false,
            function_types: vec![],
            imported_functions: 0,
            globals: vec![],
            imported_globals: 0,
            tables: vec![],
            imported_tables: 0,
            memories: vec![],
            imported_memories: 0,
            tags: vec![],
            bodies: vec![],
        };
        let mut validator = Validator::new_with_features(features());
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload?;
            if let Payload::Version { encoding: wasmparser::Encoding::Component, .. } = payload {
                return Err(RewriteError::Invalid {
                    message: "this is a component, not a core module".into(),
                    offset: 0,
                });
            }
            match validator.payload(&payload)? {
                ValidPayload::Func(function, body) => source.bodies.push((function, body)),
                ValidPayload::End(types) => {
                    let types = types.as_ref();
                    for index in (0..types.core_type_count_in_module()).rev() {
                        source.type_index.insert(types.core_type_at_in_module(index), index);
                    }
                }
                _ => {}
            }
            source.take(payload)?;
        }
        Ok(source)
    }

    fn take(&mut self, payload: Payload<'a>) -> Result<(), RewriteError> {
        match payload {
            Payload::TypeSection(reader) => {
                for group in reader.clone() {
                    for ty in group?.into_types() {
                        if ty.supertype_idx.is_some() || !ty.is_final {
                            self.subtyping = true;
                        }
                        self.writable_aggregates |= match &ty.composite_type.inner {
                            CompositeInnerType::Struct(fields) => fields.fields.iter().any(|field| field.mutable),
                            CompositeInnerType::Array(array) => array.0.mutable,
                            _ => false,
                        };
                        self.types.push(match ty.composite_type.inner {
                            CompositeInnerType::Func(function) => Some(function),
                            _ => None,
                        });
                    }
                }
                self.types_section = Some(reader);
            }
            Payload::ImportSection(reader) => {
                for import in reader.clone().into_imports() {
                    match import?.ty {
                        TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                            self.function_types.push(ty);
                            self.imported_functions += 1;
                        }
                        TypeRef::Global(ty) => {
                            self.globals.push(ty);
                            self.imported_globals += 1;
                        }
                        TypeRef::Table(ty) => {
                            self.tables.push(ty);
                            self.imported_tables += 1;
                        }
                        TypeRef::Memory(ty) => {
                            self.memories.push(ty);
                            self.imported_memories += 1;
                        }
                        TypeRef::Tag(ty) => self.tags.push(ty.func_type_idx),
                    }
                }
                self.imports_section = Some(reader);
            }
            Payload::FunctionSection(reader) => {
                for ty in reader.clone() {
                    self.function_types.push(ty?);
                }
                self.functions_section = Some(reader);
            }
            Payload::TableSection(reader) => {
                for table in reader.clone() {
                    self.tables.push(table?.ty);
                }
                self.tables_section = Some(reader);
            }
            Payload::MemorySection(reader) => {
                for memory in reader.clone() {
                    self.memories.push(memory?);
                }
                self.memories_section = Some(reader);
            }
            Payload::TagSection(reader) => {
                for tag in reader.clone() {
                    self.tags.push(tag?.func_type_idx);
                }
                self.tags_section = Some(reader);
            }
            Payload::GlobalSection(reader) => {
                for global in reader.clone() {
                    self.globals.push(global?.ty);
                }
                self.globals_section = Some(reader);
            }
            Payload::ExportSection(reader) => self.exports_section = Some(reader),
            Payload::ElementSection(reader) => self.elements_section = Some(reader),
            Payload::DataSection(reader) => self.data_section = Some(reader.range()),
            Payload::DataCountSection { count, .. } => self.data_count = Some(count),
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::CustomSection(custom) => match custom.as_known() {
                wasmparser::KnownCustom::Name(names) => self.names = Some(names),
                // Debug information and branch hints speak of byte offsets that the rewriting moves.
                _ if custom.name().starts_with(".debug_") => {}
                _ if custom.name() == "metadata.code.branch_hint" => {}
                _ => self.customs.push((custom.name(), custom.data())),
            },
            _ => {}
        }
        Ok(())
    }

    pub fn functions(&self) -> u32 {
        self.function_types.len() as u32
    }

    /// The signature of a function, which validation has shown to be a function type.
    pub fn signature(&self, function: u32) -> &FuncType {
        self.function_type(self.function_types[function as usize])
    }

    pub fn function_type(&self, ty: u32) -> &FuncType {
        self.types[ty as usize].as_ref().expect("validated: the type is a function type")
    }

    /// Parameters and results of a block.
    pub fn block_type(&self, ty: BlockType) -> (Vec<ValType>, Vec<ValType>) {
        match ty {
            BlockType::Empty => (vec![], vec![]),
            BlockType::Type(result) => (vec![], vec![result]),
            BlockType::FuncType(index) => {
                let ty = self.function_type(index);
                (ty.params().to_vec(), ty.results().to_vec())
            }
        }
    }

    /// Parameters of each tag.
    pub fn tag_parameters(&self) -> Vec<&[ValType]> {
        self.tags.iter().map(|ty| self.function_type(*ty).params()).collect()
    }

    /// A type as the validator reports it, in terms of the module's own type indices.
    pub fn in_module(&self, ty: ValType) -> ValType {
        let ValType::Ref(reference) = ty else { return ty };
        let heap_type = match reference.heap_type() {
            HeapType::Concrete(UnpackedIndex::Id(id)) => {
                HeapType::Concrete(UnpackedIndex::Module(self.type_index[&id]))
            }
            HeapType::Exact(UnpackedIndex::Id(id)) => HeapType::Exact(UnpackedIndex::Module(self.type_index[&id])),
            _ => return ty,
        };
        ValType::Ref(RefType::new(reference.is_nullable(), heap_type).expect("the index was in range before"))
    }

    /// The function as people look for it; reads the name section, so only for errors.
    pub fn name(&self, function: u32) -> FunctionName {
        let mut found = None;
        for section in self.names.clone().into_iter().flatten().flatten() {
            if let wasmparser::Name::Function(map) = section {
                found = map.into_iter().flatten().find(|naming| naming.index == function).map(|n| n.name.to_string());
            }
        }
        FunctionName { index: function, name: found }
    }
}

/// What a reference type is to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    /// Kept in the table of references, the frame holds its slot.
    Function,
    /// Taken apart into tag and payload.
    Exception,
    /// Has no form outside the store.
    Opaque,
}

pub(super) fn kind(ty: ValType) -> Kind {
    match ty {
        ValType::Ref(reference) if reference.heap_type() == RefType::FUNCREF.heap_type() => Kind::Function,
        ValType::Ref(reference) if reference.heap_type() == RefType::EXNREF.heap_type() => Kind::Exception,
        ValType::Ref(_) => Kind::Opaque,
        _ => Kind::Number,
    }
}
