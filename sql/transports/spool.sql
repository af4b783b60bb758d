-- The spool transport: the request is a file written by COPY, the answer a file that the sidecar writes beside it.
-- Each session has one of each and writes over it: making and removing files costs a hundred times more on some disks.

CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
DECLARE
    directory text := (SELECT t.settings ->> 'directory' FROM embed._transport AS t);
    slot text := directory || '/' || pg_backend_pid();
    answer_file text := slot || '.ans';
    alive text := directory || '/alive';
    beginning bytea := convert_to(format('{"id":"%s"', (request::json ->> 'id')::uuid), 'UTF8');
    answer bytea;
    started timestamptz := clock_timestamp();
    waited double precision := 0;
    look_at double precision := 0.3;  -- seconds waited when the heartbeat is looked at again
    lives boolean;
BEGIN
    timeout := coalesce(timeout, 30);
    lives := clock_timestamp() - (pg_stat_file(alive, true)).modification < interval '5 seconds';
    IF lives THEN
        EXECUTE format(
            'COPY (SELECT %L::text) TO %L WITH (FORMAT text, ENCODING ''UTF8'')', request, slot || '.req'
        );
    END IF;
    LOOP
        -- The file may hold an earlier answer, or the beginning of ours: ours begins with our id and ends with its only newline.
        IF pg_read_binary_file(answer_file, 0, length(beginning), true) = beginning THEN
            answer := pg_read_binary_file(answer_file, 0, (pg_stat_file(answer_file)).size);
            EXIT WHEN substr(answer, 1, length(beginning)) = beginning AND substr(answer, length(answer)) = '\x0a';
        END IF;
        IF lives IS NOT TRUE THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PE010',
                MESSAGE = format('the sidecar cannot be reached: no sign of life in %s for 5 seconds', directory),
                HINT = 'start it with "pg-embed serve"; "pg-embed doctor" tells what is missing';
        END IF;
        IF waited > timeout THEN
            RAISE EXCEPTION USING
                ERRCODE = 'PE011',
                MESSAGE = format('no answer from the sidecar within %s s', timeout),
                HINT = 'the model may be loading, or the sidecar busy: try again, or set embed.timeout higher';
        END IF;
        PERFORM pg_sleep(least(greatest(waited / 5, 0.0003), 0.03));
        waited := extract(epoch FROM clock_timestamp() - started);
        IF waited >= look_at THEN
            lives := clock_timestamp() - (pg_stat_file(alive, true)).modification < interval '5 seconds';
            look_at := waited + 0.3;
        END IF;
    END LOOP;
    RETURN convert_from(answer, 'UTF8');
END $$;
COMMENT ON FUNCTION embed._call(text, double precision) IS 'Send a request to the sidecar and return its answer, through files in a private folder.';
REVOKE ALL ON FUNCTION embed._call(text, double precision) FROM PUBLIC;
