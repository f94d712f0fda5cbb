//! Plain wasmtime as a peer: the program as it was compiled, without our rewriting, in an engine that is set up as ours. Its imports do
//! nothing, but that it has one argument. Knows nothing of una.

use crate::Outcome;
use wasmtime::{Config, Engine, InstancePre, Linker, Module, Store, Val};

pub struct Plain {
    engine: Engine,
    instance: InstancePre<()>,
}

/// As in our engine.
const WASM_STACK_BYTES: usize = 64 << 20;
const HOST_STACK_BYTES: usize = 2 << 20;

impl Plain {
    pub fn new(wasm: &[u8]) -> Outcome<Plain> {
        let mut config = Config::new();
        let config = freeze::configure(&mut config).generate_address_map(false);
        config.max_wasm_stack(WASM_STACK_BYTES).async_stack_size(WASM_STACK_BYTES + HOST_STACK_BYTES);
        let engine = Engine::new(config)?;
        let module = Module::new(&engine, wasm)?;
        let mut linker = Linker::new(&engine);
        for import in module.imports() {
            let ty = import.ty().func().ok_or("only functions are imported")?.clone();
            let tells_arguments = import.name() == "args_sizes_get";
            linker.func_new(import.module(), import.name(), ty.clone(), move |mut caller, arguments, results| {
                // There is one argument, the name, as for a child on a node.
                if let (true, Some(Val::I32(at))) = (tells_arguments, arguments.first()) {
                    let memory = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
                    let memory = memory.ok_or_else(|| wasmtime::Error::msg("a program exports its memory"))?;
                    memory.write(&mut caller, *at as usize, &1u32.to_le_bytes())?;
                }
                for (result, ty) in results.iter_mut().zip(ty.results()) {
                    *result = Val::default_for_ty(&ty).ok_or_else(|| wasmtime::Error::msg("a number"))?;
                }
                Ok(())
            })?;
        }
        let instance = linker.instantiate_pre(&module)?;
        Ok(Plain { engine, instance })
    }

    /// A store, an instance, its start, and the end of it all.
    pub fn run(&self) -> Outcome {
        let mut store = Store::new(&self.engine, ());
        let instance = self.instance.instantiate(&mut store)?;
        Ok(instance.get_typed_func::<(), ()>(&mut store, "_start")?.call(&mut store, ())?)
    }

    /// The same on a stack of its own.
    pub fn run_on_fiber(&self) -> Outcome {
        let mut store = Store::new(&self.engine, ());
        let all = async {
            let instance = self.instance.instantiate_async(&mut store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
            start.call_async(&mut store, ()).await
        };
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(all).poll(&mut context) {
            std::task::Poll::Ready(result) => Ok(result?),
            std::task::Poll::Pending => Err("nothing waits here".into()),
        }
    }
}
