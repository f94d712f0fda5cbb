// Runs a Lua script that is given as text: `lua SCRIPT ARGUMENT`. The script finds the argument in `n`.
// Only the libraries that need no operating system; an error in a script ends the program (LUAI_THROW is abort).
#include <stdio.h>
#include <stdlib.h>

#include "lauxlib.h"
#include "lua.h"
#include "lualib.h"

int main(int count, char **arguments) {
    if (count < 3)
        return fprintf(stderr, "usage: lua SCRIPT ARGUMENT\n"), 2;
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base}, {LUA_TABLIBNAME, luaopen_table}, {LUA_STRLIBNAME, luaopen_string}, {LUA_MATHLIBNAME, luaopen_math},
    };
    lua_State *lua = luaL_newstate();
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        luaL_requiref(lua, libraries[i].name, libraries[i].func, 1);
        lua_pop(lua, 1);
    }
    lua_pushinteger(lua, atoi(arguments[2]));
    lua_setglobal(lua, "n");
    if (luaL_loadstring(lua, arguments[1]) != LUA_OK)
        return fprintf(stderr, "%s\n", lua_tostring(lua, -1)), 1;
    lua_call(lua, 0, 0);
    lua_close(lua);
}
