%% What `pair.c` and `spawn.c` do, in Erlang: lines of a word and how often on standard input; the answer to each is a line of
%% nanoseconds for all of it (for `idle`, bytes).
-module(exchange).
-behaviour(gen_server).
-export([main/0, init/1, handle_call/3, handle_cast/2]).

-define(MESSAGE, <<"0123456789abcdef">>).
%% How many live at a time.
-define(BATCH, 500).

init([]) -> {ok, none}.
handle_call(Request, _From, State) -> {reply, Request, State}.
handle_cast(_, State) -> {noreply, State}.

serve() ->
    receive
        {ping, From, Message} -> From ! {answer, Message}, serve();
        {nothing, _Message} -> serve();
        {last, From, Message} -> From ! {answer, Message}, serve()
    end.

main() ->
    {ok, Server} = gen_server:start_link(?MODULE, [], []),
    Plain = spawn_link(fun serve/0),
    lines(Server, Plain).

lines(Server, Plain) ->
    case io:get_line("") of
        eof -> halt(0);
        Line ->
            [Word, Often] = string:lexemes(Line, " \n"),
            Count = list_to_integer(Often),
            io:format("~b~n", [measure(Word, Count, Server, Plain)]),
            lines(Server, Plain)
    end.

%% Each measurement has a process of its own, as it would have been written; who collects garbage is who made it.
measure(Word, Count, Server, Plain) ->
    Self = self(),
    spawn_link(fun() -> Self ! {measured, work(Word, Count, Server, Plain)} end),
    receive {measured, Number} -> Number end.

work("first", Count, _, _) -> first(Count, 0);
work("idle", Count, _, _) -> idle(Count);
work(Word, Count, Server, Plain) ->
    Start = erlang:monotonic_time(nanosecond),
    repeat(Word, Count, Server, Plain),
    erlang:monotonic_time(nanosecond) - Start.

repeat("call", Count, Server, _) -> call(Count, Server, infinity);
repeat("deadline", Count, Server, _) -> call(Count, Server, 5000);
repeat("ping", Count, _, Plain) -> ping(Count, Plain);
repeat("stream", Count, _, Plain) -> stream(Count, Plain);
repeat("self", Count, _, _) -> self_send(Count);
repeat("each", Count, _, _) -> each(Count);
repeat("many", Count, _, _) -> many(Count).

call(0, _, _) -> ok;
call(Count, Server, Timeout) ->
    ?MESSAGE = gen_server:call(Server, ?MESSAGE, Timeout),
    call(Count - 1, Server, Timeout).

ping(0, _) -> ok;
ping(Count, Plain) ->
    Plain ! {ping, self(), ?MESSAGE},
    receive {answer, ?MESSAGE} -> ping(Count - 1, Plain) end.

stream(1, Plain) ->
    Plain ! {last, self(), ?MESSAGE},
    receive {answer, ?MESSAGE} -> ok end;
stream(Count, Plain) ->
    Plain ! {nothing, ?MESSAGE},
    stream(Count - 1, Plain).

self_send(0) -> ok;
self_send(Count) ->
    self() ! {nothing, ?MESSAGE},
    receive {nothing, ?MESSAGE} -> self_send(Count - 1) end.

child() -> spawn_monitor(fun() -> ok end).

ended({Pid, Monitor}) -> receive {'DOWN', Monitor, process, Pid, normal} -> ok end.

each(0) -> ok;
each(Count) -> ended(child()), each(Count - 1).

many(Count) when Count =< 0 -> ok;
many(Count) ->
    Children = [child() || _ <- lists:seq(1, min(Count, ?BATCH))],
    lists:foreach(fun ended/1, Children),
    many(Count - ?BATCH).

first(0, Total) -> Total;
first(Count, Total) ->
    Self = self(),
    Before = erlang:monotonic_time(nanosecond),
    Child = spawn_monitor(fun() -> Self ! born end),
    receive born -> ok end,
    Took = erlang:monotonic_time(nanosecond) - Before,
    ended(Child),
    first(Count - 1, Total + Took).

%% Bytes of memory that processes take which wait for a message.
idle(Count) ->
    erlang:garbage_collect(),
    Before = erlang:memory(processes),
    Children = [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, Count)],
    Bytes = erlang:memory(processes) - Before,
    lists:foreach(fun(Child) -> Child ! stop end, Children),
    Bytes.
