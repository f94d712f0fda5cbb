%% Two Erlang nodes: one answers with as many bytes as it is asked for, the other measures. The answer to each line on standard input
%% is a line: nanoseconds of each request, or of all.
-module(far).
-behaviour(gen_server).
-export([serve/0, main/0, init/1, handle_call/3, handle_cast/2]).

init([]) -> {ok, binary:copy(<<7>>, 65536)}.
handle_call({Bytes, _Request}, _From, Most) -> {reply, binary:part(Most, 0, Bytes), Most}.
handle_cast(_, State) -> {noreply, State}.

serve() ->
    {ok, _} = gen_server:start({local, far}, ?MODULE, [], []),
    io:format("ready~n"),
    io:get_line(""),
    halt(0).

main() ->
    case io:get_line("") of
        eof -> halt(0);
        Line ->
            [Word, First, Second] = string:lexemes(Line, " \n"),
            io:format("~s~n", [measured(Word, list_to_integer(First), list_to_integer(Second))]),
            main()
    end.

%% Each measurement has a process of its own, as it would have been written.
measured(Word, First, Second) ->
    Self = self(),
    spawn_link(fun() -> Self ! {measured, work(Word, First, Second)} end),
    receive {measured, Answer} -> Answer end.

work("ready", _, _) ->
    case net_kernel:connect_node('far@127.0.0.1') of true -> "1"; _ -> "0" end;
work("pings", Count, Bytes) ->
    lists:join(" ", [integer_to_list(ping(Bytes)) || _ <- lists:seq(1, Count)]);
work("many", Each, InFlight) ->
    Self = self(),
    Start = erlang:monotonic_time(nanosecond),
    [spawn_link(fun() -> [ping(64) || _ <- lists:seq(1, Each)], Self ! done end) || _ <- lists:seq(1, InFlight)],
    [receive done -> ok end || _ <- lists:seq(1, InFlight)],
    integer_to_list(erlang:monotonic_time(nanosecond) - Start).

ping(Bytes) ->
    Start = erlang:monotonic_time(nanosecond),
    Answer = gen_server:call({far, 'far@127.0.0.1'}, {Bytes, <<0:480>>}, infinity),
    Bytes = byte_size(Answer),
    erlang:monotonic_time(nanosecond) - Start.
