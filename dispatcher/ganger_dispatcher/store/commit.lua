-- Invariant: all writes of a batch or none, and only while the writer's epoch is the
-- newest. A leader that was overtaken changes nothing, whatever it still believes. A batch
-- that comes again, as its answer was lost, is known by its name and not written twice: a leader
-- commits one after the other, so the name of the last one is enough.
--
-- KEYS[1]  the leader hash
-- ARGV     epoch; the batch's name; the commands, as JSON: a list of lists of words; keys that
--          must not be there yet, as JSON; the name of the batch before, empty where it is not
--          known: a Redis that was set back to an older state is not written on. (One argument
--          instead of thousands: the client takes far longer to pack arguments than Redis to
--          parse JSON.)
-- Returns 1, or having written nothing: 0 where the epoch is old, -1 where such a key is there,
--          -2 where the last batch is not the one before.
--
-- An error half-way would leave half a batch (Redis takes nothing back), so nothing here may
-- fail: the commands are made by one module, of a kind each key always has, and none has
-- more words than Lua's unpack can take.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
    return 0
end
if redis.call('HGET', KEYS[1], 'batch') == ARGV[2] then
    return 1 -- before the next: what must not be there yet is there by this very batch
end
if ARGV[5] ~= '' and redis.call('HGET', KEYS[1], 'batch') ~= ARGV[5] then
    return -2
end
for _, key in ipairs(cjson.decode(ARGV[4])) do
    if redis.call('EXISTS', key) == 1 then
        return -1
    end
end
for _, command in ipairs(cjson.decode(ARGV[3])) do
    local done = redis.pcall(unpack(command))
    if type(done) == 'table' and done.err then
        local text = tostring(done.err) .. ' (' .. command[1] .. ' ' .. command[2] .. ')'
        return redis.error_reply(text)
    end
end
redis.call('HSET', KEYS[1], 'batch', ARGV[2])
return 1
