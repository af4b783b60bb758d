-- No transport: this server lets nothing out, so queries are embedded on the client's side.

CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision)
RETURNS text
LANGUAGE plpgsql
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'PE013',
        MESSAGE = 'this database has no transport to a sidecar',
        HINT = '"pg-embed doctor" tells which transports this server allows; or embed the text in the client and pass the vector';
END $$;
COMMENT ON FUNCTION embed._call(text, double precision) IS 'Send a request to the sidecar and return its answer: there is no transport here.';
REVOKE ALL ON FUNCTION embed._call(text, double precision) FROM PUBLIC;
